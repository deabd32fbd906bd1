"""A draft and its layers as a program: values numbered, what nobody reads left out, floats as the module has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from webapp.engine.architectures.program.layers import layer_of
from webapp.engine.architectures.program.module import LAYER, names_in
from webapp.engine.weights.safetensors import LazyTensor, dtype_name

from .lifting import Lifted
from .serialized import ProgramDraft


def assembled(
    draft: ProgramDraft, lifted: Lifted, tensors: Mapping[str, LazyTensor], names: list[str]
) -> dict[str, Any]:
    """The program, called with inputs of these `names`. `tensors` by their new names."""
    steps = _read_only(lifted.steps, draft.outputs)
    numbers = {f"%{given.name}": f"%{index}" for index, given in enumerate(draft.inputs)}
    for _, result, *_ in steps:
        for name in result if isinstance(result, list) else [result]:
            if name is not None:
                numbers.setdefault(name, f"%{len(numbers)}")
    floats = {dtype_name(tensor.dtype) for tensor in tensors.values() if tensor.dtype.is_floating_point}
    wide = {f"dtype:{name}": "dtype:float32" for name in floats if name != "float32"}

    def written(arg: Any) -> Any:
        if isinstance(arg, list):
            return [written(item) for item in arg]
        if isinstance(arg, dict):
            return {key: written(item) for key, item in arg.items()}
        return wide.get(arg, numbers.get(arg, arg)) if isinstance(arg, str) else arg

    run = {step[2][0] for step in steps if step[0] == LAYER}
    held = {name.removeprefix("@") for step in steps for name in names_in([step[2], *step[3:]]) if name[0] == "@"}
    return {
        "inputs": names,
        "tensors": {
            name: [dtype_name(tensors[name].dtype), list(tensors[name].shape), draft.tensors[name] == "parameter"]
            for name in sorted(held)
        },
        "layers": {path: about for path, about in lifted.layers.items() if path in run},
        "ties": {alias: name for alias, name in lifted.ties.items() if alias.rpartition(".")[0] in run},
        "output": written(draft.outputs if len(draft.outputs) > 1 else draft.outputs[0]),
        **(
            {"answers": _answers(draft.answers, {*names, *tensors})} if draft.answers and len(draft.outputs) > 1 else {}
        ),
        "steps": [[step[0], *written(step[1:])] for step in steps],
    }


def _answers(told: list[str], taken: set[str]) -> list[str]:
    """The outputs' names, plain and each once: a graph has one value of a name."""
    found: list[str] = []
    for name in told:
        clean = re.sub(r"[^\w.:/-]", "_", name)[:80] or "_"
        while clean in taken:
            clean += "_"
        taken.add(clean)
        found.append(clean)
    return found


def _read_only(steps: list[list[Any]], outputs: list[str]) -> list[list[Any]]:
    """The steps whose results reach an output, and those that write into what they are given."""
    wanted, kept = set(outputs), []
    for step in reversed(steps):
        results = step[1] if isinstance(step[1], list) else [step[1]]
        writes = step[0].split(".")[1:2] and step[0].split(".")[1].endswith("_") and "__" not in step[0]
        if wanted & set(results) or writes:
            wanted |= set(names_in([step[2], *step[3:]]))
            kept.append(step)
    return kept[::-1]


def tensor_names(program: Mapping[str, Any]) -> list[str]:
    """The names of everything that the program's module has to be given, ties left out."""
    own = [f"{path}.{name}" for path, about in program["layers"].items() for name in layer_of(about).state_dict()]
    return [name for name in (*own, *program["tensors"]) if name not in program["ties"]]
