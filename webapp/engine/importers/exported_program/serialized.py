"""From the JSON of torch.export.save to a program's steps. Expressions, guards and type names in it are not evaluated.

The schema is torch/_export/serde/schema.py; each union there is an object with one key, such as {"as_int": 3}.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from webapp.engine.architectures.program.module import MEMORY, MOST_STEPS
from webapp.engine.architectures.program.operators import operator_of

SCALARS = {  # ScalarType
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    9: "complex32",
    10: "complex64",
    12: "bool",
    13: "bfloat16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
}
MEMORY_FORMATS = dict(enumerate(MEMORY, start=1))
STRIDED = 7  # Layout
SILENT = re.compile(r"_assert|sym_constrain|_check|_operator\.getitem")  # what only checks
WRAPS = {  # higher-order operator -> how many arguments stand before its graph
    "higher_order.wrap_with_set_grad_enabled": 1,
    "higher_order.wrap_with_autocast": 4,
}
NORM = "aten.batch_norm.default"  # its sixth argument is whether it trains
DEPTH = 20  # of graphs in graphs
KEYWORD = 2  # ArgumentKind


class NotRun(Exception):
    """The program is sound and does something that is not run here; the message goes on after "it"."""


@dataclass
class ProgramInput:
    """One tensor that the program is called with; a size is None where it is free."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    hints: tuple[int, ...]  # the example's sizes
    most: tuple[int | None, ...]  # the largest size allowed


@dataclass
class ProgramDraft:
    """Values are "%" and tensors "@" and their name in the file."""

    inputs: list[ProgramInput] = field(default_factory=list)
    tensors: dict[str, str] = field(default_factory=dict)  # full name -> "parameter" or "buffer"
    steps: list[list[Any]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)  # what the outputs are called, where that is told
    floats: list[bool] = field(default_factory=list)  # of each output
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)  # value -> the module that made it
    called: list[str] = field(default_factory=list)  # the inputs, where their own names are not told
    title: str = ""
    made: str = "exported program"  # what it was read from
    trains: bool = False  # was exported in training mode

    @property
    def main(self) -> int:
        """The place of the output that a task is about."""
        return self.floats.index(True) if True in self.floats else 0

    def keep(self, places: Sequence[int]) -> None:
        """Answers with these of its outputs alone."""
        self.outputs, self.floats = [self.outputs[i] for i in places], [self.floats[i] for i in places]
        self.answers = [self.answers[i] for i in places] if self.answers else []


def drafted(content: Mapping[str, Any]) -> ProgramDraft:
    """The steps of a serialized program. Raises NotRun, or LookupError, TypeError or ValueError for another form."""
    module = content["graph_module"]
    graph, signature, draft = module["graph"], module["signature"], ProgramDraft(title=_class_name(module["graph"]))
    scope: dict[str, Any] = {}
    for spec in signature["input_specs"]:
        (kind, about), *_ = spec.items()
        if kind in ("parameter", "buffer", "tensor_constant"):
            name = about["parameter_name" if kind == "parameter" else f"{kind}_name"]
            scope[about["arg"]["name"]] = f"@{name}"
            draft.tensors[name] = "parameter" if kind == "parameter" else "buffer"
        elif kind == "user_input" and "as_tensor" in about["arg"]:
            name = about["arg"]["as_tensor"]["name"]
            scope[name] = f"%{name}"
            ranges = content.get("range_constraints") or {}
            draft.inputs.append(_given(name, graph["tensor_values"][name], ranges))
        elif kind == "constant_input":
            scope[about["name"]] = _plain(about["value"])
        else:
            raise NotRun(f"takes an input that is no tensor ({kind})")
    _add(draft, graph, scope, "", 0)
    for spec in signature["output_specs"]:
        (kind, about), *_ = spec.items()
        if kind == "buffer_mutation" and not about["buffer_name"].endswith("num_batches_tracked"):
            raise NotRun(f"changes its own {about['buffer_name']} whenever it runs")
    answers = [spec["user_output"]["arg"] for spec in signature["output_specs"] if "user_output" in spec]
    names = [answer["as_tensor"]["name"] if "as_tensor" in answer else None for answer in answers]
    draft.outputs = [scope[name] for name in names if name is not None]
    draft.floats = ["float" in SCALARS[graph["tensor_values"][name]["dtype"]] for name in names if name is not None]
    told = _keys(module)
    if len(told) == len(names):
        draft.answers = [key for key, name in zip(told, names, strict=True) if name is not None]
    return draft


def _keys(module: Mapping[str, Any]) -> list[str]:
    """Of the flat dict, or dataclass of transformers, that the module answered with; none of anything else."""
    calls = module.get("module_call_graph") or [{}]
    try:
        about = json.loads(calls[0]["signature"]["out_spec"])[1]
        keys, parts = json.loads(about["context"]), about["children_spec"]
        flat = all(part["type"] is None for part in parts)
    except (LookupError, TypeError, ValueError, RecursionError):
        return []
    named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    return keys if named and flat and len(keys) == len(parts) else []


def _class_name(graph: Mapping[str, Any]) -> str:
    """Of the module that was exported, where a step remembers it."""
    for node in graph["nodes"]:
        stack = str((node.get("metadata") or {}).get("nn_module_stack", ""))
        if found := re.match(r"[^,;]*,,([\w.<>]+)(;|$)", stack):
            return found[1].rpartition(".")[2][:80]
    return ""


def _path(node: Mapping[str, Any]) -> str:
    """Of the innermost module that the step was in."""
    stack = str((node.get("metadata") or {}).get("nn_module_stack", ""))
    found = re.search(r"(?:^|;)[^,;]*,([^,;]*),[^,;]*$", stack)
    return found[1] if found else ""


def _given(name: str, meta: Mapping[str, Any], ranges: Mapping[str, Any]) -> ProgramInput:
    sizes = [_size(size) for size in meta["sizes"]]
    expressions = [size.get("as_expr") or {} for size in meta["sizes"]]
    most = tuple((ranges.get(_symbol(about)) or {}).get("max_val") for about in expressions)
    hints = [size if size is not None else _hint(about) for size, about in zip(sizes, expressions, strict=True)]
    return ProgramInput(name, SCALARS[meta["dtype"]], tuple(sizes), tuple(hints), most)


def _symbol(about: Mapping[str, Any]) -> str:
    """The name in an expression that is one symbol; "" for another."""
    found = re.fullmatch(r"Symbol\('(\w+)'[\w=, ]*\)|(\w+)", str(about.get("expr_str", "")))
    return (found[1] or found[2]) if found else ""


def _size(size: Mapping[str, Any]) -> int | None:
    return int(size["as_int"]) if "as_int" in size else None


def _hint(about: Mapping[str, Any]) -> int:
    return int((about.get("hint") or {}).get("as_int", 2))


def _add(draft: ProgramDraft, graph: Mapping[str, Any], scope: dict[str, Any], prefix: str, depth: int) -> None:
    """Appends a graph's steps; what it names is in `scope`, and so is what it makes, afterwards."""
    if depth > DEPTH:
        raise NotRun("has graphs within graphs that go too deep")
    for name, meta in graph["tensor_values"].items():
        known = scope.get(name, f"%{prefix}{name}")
        draft.shapes.setdefault(known, tuple(_size(size) for size in meta["sizes"]))
    for number, node in enumerate(graph["nodes"]):
        target = node["target"].removeprefix("torch.ops.")
        if len(draft.steps) > MOST_STEPS:
            raise NotRun(f"has more than {MOST_STEPS} steps")
        if target in WRAPS:
            _inline(draft, node, target, scope, f"{prefix}{number}.", depth)
        elif not SILENT.search(target):
            step = _step(node, target, scope, prefix)
            if isinstance(step[1], str):
                draft.paths[step[1]] = _path(node)
            counts = str(step[2][0] if step[2] else "")  # how many batches a norm has seen: it stays as it is
            if not (counts.startswith("@") and counts.endswith("num_batches_tracked")):
                draft.steps.append(step)
            draft.trains |= target == NORM and step[2][5] is True


def _inline(
    draft: ProgramDraft, node: Mapping[str, Any], target: str, scope: dict[str, Any], prefix: str, depth: int
) -> None:
    """A graph that is called where its gradients, or another precision, are switched: neither is switched here."""
    args, skipped = [item["arg"] for item in node["inputs"]], WRAPS[target]
    if skipped == 4 and _plain(args[2]):
        raise NotRun("switches to another precision within (autocast)")
    graph, given = args[skipped]["as_graph"]["graph"], args[skipped + 1 :]
    names = [item["as_tensor"]["name"] if "as_tensor" in item else _name(item) for item in graph["inputs"]]
    inner = {name: _argument(arg, scope) for name, arg in zip(names, given, strict=True)}
    _add(draft, graph, inner, prefix, depth + 1)
    outer = _results(node["outputs"])
    made = [_argument(item, inner) for item in graph["outputs"]]
    for name, value in zip(outer if isinstance(outer, list) else [outer], made, strict=True):
        if name is not None:
            scope[name] = value


def _step(node: Mapping[str, Any], target: str, scope: dict[str, Any], prefix: str) -> list[Any]:
    found = operator_of(target)
    if found is None:
        raise NotRun(f"uses {target[:80]}, which Pare does not run")
    args, kwargs = [], {}
    only_named = (
        {given.name for given in found._schema.arguments if given.kwarg_only} if hasattr(found, "_schema") else ()
    )
    for item in node["inputs"]:
        value = _argument(item["arg"], scope)
        if item["name"] in ("layout", "pin_memory", "non_blocking"):
            continue  # dense and in plain memory, all of it
        if item.get("kind") == KEYWORD or item["name"] in only_named:
            kwargs[item["name"]] = value
        else:
            args.append(value)
    results = _results(node["outputs"])
    for name in results if isinstance(results, list) else [results]:
        if name is not None:
            scope[name] = f"%{prefix}{name}"
    named = [None if name is None else scope[name] for name in results] if isinstance(results, list) else None
    result = named if named is not None else None if results is None else scope[results]
    return [target, result, args, *([kwargs] if kwargs else [])]


def _results(outputs: list[Any]) -> Any:
    """A name, a list of names (None for one that is not kept), or None."""
    if len(outputs) == 1 and "as_tensors" in outputs[0]:
        return [item["name"] for item in outputs[0]["as_tensors"]]
    names = [None if "as_none" in item else _name(item) for item in outputs]
    return names[0] if len(names) == 1 else names or None


def _name(item: Mapping[str, Any]) -> str:
    (_, about), *_ = item.items()
    name = about.get("name") or about.get("as_name")
    if not isinstance(name, str):
        raise ValueError(f"a result without a name: {str(item)[:80]}")
    return name


def _plain(item: Mapping[str, Any]) -> Any:
    (kind, value), *_ = item.items()
    return None if kind == "as_none" else value


def _argument(item: Mapping[str, Any], scope: Mapping[str, Any]) -> Any:
    (kind, value), *_ = item.items()
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return scope[value["name"]]
        case "as_tensors":
            return [scope[each["name"]] for each in value]
        case "as_optional_tensors":
            return [_argument(each, scope) for each in value]
        case "as_optional_tensor":
            return _argument(value, scope)
        case "as_sym_int" | "as_sym_bool" | "as_sym_float":
            return scope[value["as_name"]] if "as_name" in value else _plain(value)
        case "as_sym_ints" | "as_sym_bools" | "as_sym_floats":
            return [scope[each["as_name"]] if "as_name" in each else _plain(each) for each in value]
        case "as_int" | "as_ints" | "as_bool" | "as_bools" | "as_int_lists":
            return value
        case "as_float" | "as_floats":
            return [_float(each) for each in value] if isinstance(value, list) else _float(value)
        case "as_string":
            return f"string:{value}"
        case "as_scalar_type":
            return f"dtype:{SCALARS[value]}"
        case "as_memory_format":
            return f"memory:{MEMORY_FORMATS[value]}"
        case "as_layout":
            return "string:strided" if value == STRIDED else _refused("sparse tensors")
        case "as_device":
            return "device:"
        case _:
            return _refused(kind.removeprefix("as_").replace("_", " "))


def _float(value: Any) -> float | str:
    """The schema writes infinities as strings; JSON has no form for them."""
    number = float(value)
    return number if math.isfinite(number) else f"float:{number}"


def _refused(what: str) -> Any:
    raise NotRun(f"is given {what}, which Pare does not run")
