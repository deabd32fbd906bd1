"""TensorFlow Serving's REST interface: https://www.tensorflow.org/tfx/serving/api_rest.

Beside the graph's own inputs a model of tokens takes `text`, which is made to tokens here, and a model of images
takes their files, in base64 as {"b64": "…"}.
"""

from __future__ import annotations

from typing import Any

from .answers import Answer, Request, as_json
from .errors import Refused
from .model import BYTES, ServedModel
from .tensors import Array, array_of, required

SIGNATURE = "serving_default"
VERSION = "1"
TYPES = {"float32": "DT_FLOAT", "float16": "DT_HALF", "float64": "DT_DOUBLE", "bool": "DT_BOOL"}


def status(model: ServedModel) -> Answer:
    state = {"version": VERSION, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    # the rest is OpenAI's answer at the same address; either's clients pass over the other's fields
    return as_json({"model_version_status": [state], "id": model.name, "object": "model", "owned_by": "pare"})


def metadata(model: ServedModel) -> Answer:
    definition = {
        "inputs": {each.name: _described(each) for each in model.signature.inputs},
        "outputs": {each.name: _described(each) for each in model.signature.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    about = {"name": model.name, "signature_name": "", "version": VERSION}
    return as_json({"model_spec": about, "metadata": {"signature_def": {"signature_def": {SIGNATURE: definition}}}})


def predict(model: ServedModel, request: Request) -> Answer:
    """Rows (`instances` → `predictions`) or columns (`inputs` → `outputs`). Raises Refused."""
    asked = request.json()
    for name in asked:
        if name not in ("instances", "inputs", "signature_name"):
            raise Refused(f"{name[:80]!r} is not known; a request has instances or inputs, and signature_name.", name)
    if asked.get("signature_name", SIGNATURE) not in (SIGNATURE, ""):
        raise Refused(f"There is no signature {asked['signature_name']!r}; there is {SIGNATURE}.", "signature_name")
    if ("instances" in asked) == ("inputs" in asked):
        raise Refused("A request has either instances (rows) or inputs (columns).")
    if "instances" in asked:
        found = model.run(_feeds(model, columns(model, asked["instances"], "instances"), "instances"))
        return as_json({"predictions": rows(found)})
    given = asked["inputs"]
    if isinstance(given, list) and given and isinstance(given[0], dict):
        given = columns(model, given, "inputs")
    found = model.run(_feeds(model, given if isinstance(given, dict) else {_only(model, given): given}, "inputs"))
    named = {name: array.tolist() for name, array in found.items()}
    return as_json({"outputs": next(iter(named.values())) if len(named) == 1 else named})


def columns(model: ServedModel, instances: Any, field: str) -> dict[str, list[Any]]:
    """Rows, objects or bare values, as {input: list}. Raises Refused."""
    if not isinstance(instances, list) or not instances:
        raise Refused(f"{field} has to be a list with at least one row.", field)
    if not isinstance(instances[0], dict):
        return {_only(model, instances[0]): instances}
    names = list(instances[0])
    for place, row in enumerate(instances):
        if not isinstance(row, dict) or set(row) != set(names):
            raise Refused(f"Row {place} of {field} does not have the inputs of row 0.", f"{field}.{place}")
    return {name: [row[name] for row in instances] for name in names}


def rows(found: dict[str, Array]) -> list[Any]:
    """One value for each sample; an object where the model answers with several tensors."""
    if len(found) == 1:
        only: list[Any] = next(iter(found.values())).tolist()
        return only
    named = {name: array.tolist() for name, array in found.items()}
    return [dict(zip(named, values, strict=True)) for values in zip(*named.values(), strict=True)]


def _feeds(model: ServedModel, given: dict[str, Any], field: str) -> dict[str, Array]:
    if set(given) == {BYTES}:
        images = given[BYTES]
        return model.look([images] if isinstance(images, str) else images, field)
    if "text" in given and not any(each.name == "text" for each in model.signature.inputs):
        if len(given) > 1:
            raise Refused("Send either text or the model's own inputs.", "text")
        return model.read(given["text"])
    wanted = {each.name: each for each in model.signature.inputs}
    return model.feeds({name: array_of(v, wanted[name]) if name in wanted else v for name, v in given.items()})


def _only(model: ServedModel, value: Any) -> str:
    """The input that bare values are for."""
    names = required(model.signature.inputs)
    if isinstance(value, str) and model.tokens is not None:
        return "text"
    if len(names) > 1:
        raise Refused(f"The model takes {', '.join(names)}; name them in each row.", "instances")
    return names[0]


def _described(each: Any) -> dict[str, Any]:
    sizes = [{"size": str(size if isinstance(size, int) else -1), "name": ""} for size in each.shape]
    dtype = TYPES.get(each.dtype, f"DT_{each.dtype.upper()}")
    return {"dtype": dtype, "tensor_shape": {"dim": sizes, "unknown_rank": False}, "name": f"{each.name}:0"}
