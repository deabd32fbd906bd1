"""A graph and the graphs within it as one list: both branches of an If stand before it, and it chooses.

Loops stay nodes of their own, which nothing runs; the weights and products inside them are told all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from webapp.engine.importers.exported_program.serialized import NotRun

DEPTH = 20  # of graphs in graphs
GRAPH, IF = 5, "If"  # AttributeProto.GRAPH
BRANCHES = {"then_branch": True, "else_branch": False}
Guards = tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class FlatNode:
    """A NodeProto with its names as they are in the whole. It runs where each value of `guards` is what it says."""

    proto: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    guards: Guards = ()
    looped: bool = False  # within a graph that is called again and again


@dataclass
class FlatGraph:
    """`tensors` are TensorProtos by their names in the whole, where they lie in graphs within."""

    nodes: list[FlatNode] = field(default_factory=list)
    tensors: dict[str, Any] = field(default_factory=dict)


def flattened(graph: Any) -> FlatGraph:
    """Raises NotRun for graphs that go too deep."""
    flat = FlatGraph()
    names = [name for node in graph.node for name in node.output]
    names += [item.name for item in (*graph.initializer, *graph.input)]
    _add(flat, graph, {}, dict.fromkeys(names, 1), (), False, 0)
    return flat


def _add(
    flat: FlatGraph,
    graph: Any,
    names: Mapping[str, str],
    taken: dict[str, int],
    guards: Guards,
    looped: bool,
    depth: int,
) -> None:
    if depth > DEPTH:
        raise NotRun("has graphs within graphs that go too deep")
    for proto in graph.node:
        given = tuple(names.get(name, name) for name in proto.input)
        made = tuple(names.get(name, name) for name in proto.output)
        chosen: list[str] = []
        for name, inner in _inner(proto):
            branch = proto.op_type == IF and name in BRANCHES
            own = {**names, **_renamed(inner, taken)}
            flat.tensors |= {own[tensor.name]: tensor for tensor in inner.initializer}
            within = (*guards, (given[0], BRANCHES[name])) if branch and given else guards
            _add(flat, inner, own, taken, within, looped or not branch, depth + 1)
            chosen += [own.get(item.name, item.name) for item in inner.output] if branch else []
        flat.nodes.append(FlatNode(proto, (*given, *chosen), made, guards, looped))


def _inner(proto: Any) -> Iterator[tuple[str, Any]]:
    """The graphs of a node, the branch that is taken where something is true first."""
    found = [(item.name, item.g) for item in proto.attribute if item.type == GRAPH]
    yield from sorted(found, key=lambda pair: (not BRANCHES.get(pair[0], True), pair[0]))


def _renamed(graph: Any, taken: dict[str, int]) -> dict[str, str]:
    """Its own names as they are in the whole, where each comes once; `taken` counts how often it was asked for."""
    own = [name for node in graph.node for name in node.output if name]
    found = {}
    for name in dict.fromkeys([*own, *(tensor.name for tensor in graph.initializer), *(i.name for i in graph.input)]):
        found[name] = name
        while found[name] in taken:
            taken[name] += 1
            stem, dot, last = name.rpartition(".")
            found[name] = f"{stem}_{taken[name]}.{last}" if stem else f"{dot}{last}_{taken[name]}"
        taken[found[name]] = 1
    return found
