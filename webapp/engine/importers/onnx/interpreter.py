"""The module that follows a graph, node by node. It is traced with stand-ins and never meets the weights themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from webapp.engine.architectures.program.module import put_tensor
from webapp.engine.importers.exported_program.serialized import NotRun

from .graph import IF, Graph, GraphInput, GraphNode
from .operators import OPERATORS
from .values import MOST_KNOWN, KnownNumbers, Value, constant, hint_of, kind_of, tensor

MOST_ELEMENTS = 2**29  # of one tensor, for the few samples that are traced
ALL_KNOWN = 1_000_000  # numbers of a file that are followed one by one
SETTINGS: dict[str, tuple[int, ...]] = {  # inputs that are settings, where a float is a known number
    "Clip": (1, 2),
    "Pad": (2,),
    "Resize": (1, 2),
    "Upsample": (1,),
    "Dropout": (1, 2),
    "OneHot": (1, 2),
    "Range": (0, 1, 2),
}
TOKENS, PLACES = "input_ids", "position_ids"  # as transformers calls them
PRODUCTS = ("Add", "Sub", "Mul", "Div", "Concat", "Expand", "Gather")


class GraphModule(nn.Module):
    """`names` are the tensors' names here, `layered` which are trained, `known` those that are followed as numbers.

    Made under a fake mode, its weights have shapes and no numbers.
    """

    def __init__(
        self, graph: Graph, names: Mapping[str, str], layered: frozenset[str], known: Mapping[str, KnownNumbers]
    ) -> None:
        super().__init__()
        self._graph, self._names, self._known = graph, names, known
        for name, held in graph.tensors.items():
            if name not in self._known:
                stand_in = torch.empty(held.shape, dtype=kind_of(held.dtype))
                put_tensor(self, names[name], stand_in, name in layered)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        values: dict[str, Any] = dict(zip(asked_for(self._graph), inputs, strict=True))
        values |= {item.name: made_up(item, values) for item in self._graph.inputs if item.name not in values}
        values |= self._known
        for name, path in self._names.items():
            if name not in self._known:
                owner, _, last = path.rpartition(".")
                values[name] = getattr(self.get_submodule(owner), last)
        for node in self._graph.nodes:
            if any(_passed_over(values[name], wanted) for name, wanted in node.guards):
                continue
            chooses = node.op == IF  # of a branch that is passed over nothing is made
            found = _run(node, [values.get(n) if chooses else values[n] if n else None for n in node.inputs])
            values |= zip(node.outputs, found if isinstance(found, list) else [found], strict=False)
            for name in node.outputs:
                _check_size(node, values.get(name))
        return {name: tensor(values[name]) for name in self._graph.outputs}


def _passed_over(condition: Any, wanted: bool) -> bool:
    """Whether a branch is known not to be taken."""
    return isinstance(condition, KnownNumbers) and condition.plain and bool(condition.values.flat[0]) != wanted


def asked_for(graph: Graph) -> list[str]:
    """The inputs that a caller gives: not those that follow from the tokens, as places do and a cache at its start."""
    names = [item.name for item in graph.inputs]
    if TOKENS not in names:
        return names
    return [item.name for item in graph.inputs if item.name != PLACES and not _cache(item)]


def _cache(item: GraphInput) -> bool:
    return item.name.startswith("past_key_values.") and len(item.shape) == 4 and item.shape[2] is None


def made_up(item: GraphInput, given: Mapping[str, Tensor]) -> Tensor:
    """Raises NotRun."""
    batch, length = given[TOKENS].shape[:2]
    if item.name == PLACES:
        return torch.arange(length).unsqueeze(0).expand(batch, length)
    _, heads, _, size = item.shape
    if heads is None or size is None:
        raise NotRun(f"does not tell the shape of its cache {item.name[:80]}")
    return torch.zeros((batch, heads, 0, size))


def known_tensors(graph: Graph) -> dict[str, KnownNumbers]:
    """Numbers and small lists of whole ones, which are followed themselves, and floats that are but settings."""
    elsewhere = {name for node, place, name in graph.uses() if place not in SETTINGS.get(node.op, ())}
    found: dict[str, KnownNumbers] = {}
    left = ALL_KNOWN
    for name, held in graph.tensors.items():
        floats, count = held.dtype.is_floating_point, math.prod(held.shape)
        if not held.shape or (count <= min(MOST_KNOWN, left) and (not floats or name not in elsewhere)):
            found[name] = constant(held.load())
            left -= count
    return found


def trained(graph: Graph, parts: Mapping[str, Any]) -> frozenset[str]:
    """The floats that look like weights: parts of layers, tables, and vectors that scale or shift."""
    found = {name for name, part in parts.items() if not part.part.startswith("running") and part.op != "MatMul"}
    found |= {name for name, part in parts.items() if part.op == "MatMul" and len(graph.tensors[name].shape) == 2}
    for node, place, name in graph.uses():
        held = graph.tensors.get(name)
        if held is not None and held.dtype.is_floating_point and node.op in PRODUCTS:
            table = node.op == "Gather" and place == 0 and len(held.shape) == 2
            vector = node.op != "Gather" and len(held.shape) in (1, 3) and math.prod(held.shape) > 1
            if (table or vector) and name not in parts:
                found.add(name)
    return frozenset(found)


def _run(node: GraphNode, given: list[Value | None]) -> Any:
    try:
        found = OPERATORS[node.op](node, *given)
        if extra := node.disregarded():
            raise NotRun(f"sets {extra[0][:80]} of a {node.op}, which Pare does not know")
        return found
    except NotRun:
        raise
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotRun(f"has a {node.op} that cannot be followed ({first[:160]})") from error


def _check_size(node: GraphNode, value: Any) -> None:
    if isinstance(value, Tensor):
        if not value.dim() <= 64 or math.prod(map(hint_of, value.shape)) > MOST_ELEMENTS:
            raise NotRun(f"makes a tensor of shape {[hint_of(size) for size in value.shape]} with a {node.op}")
    elif isinstance(value, KnownNumbers) and value.values.size > 16 * MOST_KNOWN:
        raise NotRun(f"follows {value.values.size} numbers of a {node.op} one by one")
