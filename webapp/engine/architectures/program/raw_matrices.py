"""A program's tensors that multiply without being the weight of a module: recurrent matrices, stacks of experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from webapp.engine.facts import PLAIN, LayerKind, Layout

from .recurrent import GATES

KEEPING = "select index index_select clone contiguous to _to_copy expand unsqueeze"
SAME = {f"aten.{name}" for name in KEEPING.split()}
PARTS = ("aten.unbind", "aten.split", "aten.chunk")  # results with the matrices of what they are given
TURNING = ("aten.t", "aten.mT", "aten.numpy_T", "aten.transpose", "aten.permute")
SIDES = {  # operator -> place of what is multiplied with, and whether that is (in, out)
    "aten.linear": {1: False},
    "aten.bmm": {0: False, 1: True},
    "aten.mm": {0: False, 1: True},
    "aten.matmul": {0: False, 1: True},
    "aten.addmm": {1: False, 2: True},
    "aten.baddbmm": {1: False, 2: True},
}


def raw_matrices(program: Mapping[str, Any]) -> dict[str, tuple[LayerKind, Layout]]:
    """Kind and layout of each, by its name."""
    found: dict[str, tuple[LayerKind, Layout]] = {}
    shapes = {f"@{name}": shape for name, (_, shape, trained) in program["tensors"].items() if trained}
    stacks = {name: False for name, shape in shapes.items() if len(shape) == 3 and shape[0] > 1}
    views = {
        name: (name, transposed) for name, transposed in stacks.items()
    }  # value -> stack, and whether it is transposed
    for target, result, args, *_ in program["steps"]:
        packet = str(target).rpartition(".")[0]
        if packet.removeprefix("aten.") in GATES:
            weights = next(arg for arg in args[1:] if isinstance(arg, list) and any(name in shapes for name in arg))
            found |= {name[1:]: ("recurrent", PLAIN) for name in weights if len(shapes.get(name, ())) == 2}
        source = args[0] if args and isinstance(args[0], str) else ""
        if source in views and (packet in SAME or packet in PARTS or packet in TURNING):
            stack, transposed = views[source]
            made = (stack, transposed != (packet in TURNING))
            views |= {name: made for name in (result if isinstance(result, list) else [result]) if name is not None}
        for stack, inputs_first in _multiplied(packet, args, views):
            found[stack[1:]] = ("experts", Layout(inputs_first, shapes[stack][0], stacked=True))
    return found


def _multiplied(packet: str, args: list[Any], views: Mapping[str, tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """Stacks that a step multiplies with, and whether they are stored as (experts, in, out)."""
    if packet == "aten.einsum" and len(args) > 1 and isinstance(args[1], list):
        letters, _, answer = str(args[0]).removeprefix("string:").replace(" ", "").partition("->")
        for own, operand in zip(letters.split(","), args[1], strict=False):
            if operand in views and len(own) == 3 and answer:
                yield views[operand][0], (own[2] in answer) != views[operand][1]
    for place, inputs_first in SIDES.get(packet, {}).items():
        operand = args[place] if place < len(args) else None
        if isinstance(operand, str) and operand in views:
            yield views[operand][0], inputs_first != views[operand][1]
