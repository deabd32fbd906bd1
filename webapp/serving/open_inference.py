"""The Open Inference Protocol, version 2, in JSON and with its binary tensors.

https://github.com/kserve/open-inference-protocol and Triton's binary tensor data extension.
"""

from __future__ import annotations

import json
import math
from importlib.metadata import version
from typing import Any

import numpy as np

from webapp.engine.exporters.onnx.signature import TensorSignature

from .answers import Answer, Request, as_json, object_of
from .errors import Refused
from .model import ServedModel
from .tensors import Array, array_of

HEADER = "inference-header-content-length"
DATATYPES = {"float32": "FP32", "float16": "FP16", "float64": "FP64", "bool": "BOOL"}
TEXT = "BYTES"


def datatype(dtype: str) -> str:
    return DATATYPES.get(dtype, dtype.upper())


def server() -> Answer:
    return as_json({"name": "pare", "version": version("pare"), "extensions": ["binary_tensor_data"]})


def metadata(model: ServedModel) -> Answer:
    about = {"name": model.name, "versions": ["1"], "platform": "onnxruntime_onnx"}
    return as_json(
        about
        | {
            "inputs": [_described(each) for each in model.signature.inputs],
            "outputs": [_described(each) for each in model.signature.outputs],
        }
    )


def infer(model: ServedModel, request: Request) -> Answer:
    """Raises Refused."""
    asked, binary = _parts(request)
    feeds = _feeds(model, asked, binary)
    found = model.run(feeds)
    everywhere = (asked.get("parameters") or {}).get("binary_data_output") is True
    wanted = asked.get("outputs") or [{"name": name} for name in found]
    outputs, tail = [], b""
    for each in _objects(wanted, "outputs"):
        name = each.get("name")
        if name not in found:
            raise Refused(f"There is no output {str(name)[:80]!r}; there are {', '.join(found)}.", "outputs")
        array = np.ascontiguousarray(found[name])
        told = {"name": name, "datatype": datatype(str(array.dtype)), "shape": list(array.shape)}
        if (each.get("parameters") or {}).get("binary_data", everywhere):
            tail += array.tobytes()
            outputs.append({**told, "parameters": {"binary_data_size": array.nbytes}})
        else:
            outputs.append({**told, "data": array.ravel().tolist()})
    told = {"model_name": model.name, "model_version": "1", "outputs": outputs}
    if "id" in asked:
        told["id"] = str(asked["id"])
    head = json.dumps(told).encode()
    if not tail:
        return Answer(head)
    return Answer(
        head + tail, {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    )


def _parts(request: Request) -> tuple[dict[str, Any], bytes]:
    """The JSON, and the bytes of tensors behind it."""
    told = request.headers.get(HEADER)
    if told is None:
        return request.json(), b""
    if not told.isdigit() or int(told) > len(request.body):
        raise Refused("Inference-Header-Content-Length is not the length of the JSON at the beginning of the body.")
    return object_of(request.body[: int(told)]), request.body[int(told) :]


def _feeds(model: ServedModel, asked: dict[str, Any], binary: bytes) -> dict[str, Array]:
    given: dict[str, Array] = {}
    wanted = {each.name: each for each in model.signature.inputs}
    for each in _objects(asked.get("inputs"), "inputs"):
        name = str(each.get("name"))
        size = (each.get("parameters") or {}).get("binary_data_size")
        part = None
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(binary):
                raise Refused(f"The input {name} announces {size} bytes; {len(binary)} are there.", name)
            part, binary = binary[:size], binary[size:]
        if name == "text" and name not in wanted and each.get("datatype") == TEXT:
            return model.read(_texts(each, part))
        if name not in wanted:
            raise Refused(f"There is no input {name[:80]!r}; the model takes {', '.join(wanted)}.", name[:80])
        given[name] = _array(each, wanted[name], part)
    return model.feeds(given)


def _array(each: dict[str, Any], wanted: TensorSignature, part: bytes | None) -> Array:
    if each.get("datatype") != datatype(wanted.dtype):
        raise Refused(
            f"The input {wanted.name} takes {datatype(wanted.dtype)}; got {each.get('datatype')}.", wanted.name
        )
    shape = each.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise Refused(f"The input {wanted.name} needs its shape, a list of whole numbers.", wanted.name)
    if part is None:
        flat = array_of(each.get("data"), wanted).ravel()
    elif len(part) % np.dtype(wanted.dtype).itemsize:
        raise Refused(f"The bytes of {wanted.name} are not whole numbers of {wanted.dtype}.", wanted.name)
    else:
        flat = np.frombuffer(part, wanted.dtype)
    if math.prod(shape) != flat.size:
        raise Refused(f"The input {wanted.name} has {flat.size} values; its shape is {shape}.", wanted.name)
    return flat.reshape(shape)


def _texts(each: dict[str, Any], part: bytes | None) -> list[str]:
    """Of a BYTES tensor: strings in JSON, or each with its length before it in 4 bytes."""
    if part is None:
        data = each.get("data")
        flat = [text for row in data for text in (row if isinstance(row, list) else [row])] if data else []
        return flat
    found = []
    while part:
        size = int.from_bytes(part[:4], "little")
        if len(part) < 4 + size:
            raise Refused("The bytes of text end within a text.", "text")
        found.append(part[4 : 4 + size].decode("utf8", "replace"))
        part = part[4 + size :]
    return found


def _objects(value: Any, field: str) -> list[dict[str, Any]]:
    whole = isinstance(value, list) and value and all(isinstance(each, dict) for each in value)
    if not whole or any(not isinstance(each.get("parameters") or {}, dict) for each in value):
        raise Refused(f"{field} has to be a list of objects, each with its name.", field)
    found: list[dict[str, Any]] = value
    return found


def _described(each: TensorSignature) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in each.shape]
    return {"name": each.name, "datatype": datatype(each.dtype), "shape": shape}
