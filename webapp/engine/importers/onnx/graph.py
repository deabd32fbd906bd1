"""The nodes of an ONNX graph that its answer depends on, with attributes as plain values. Raises NotRun for others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from webapp.engine.architectures.kv_cache import PRESENT
from webapp.engine.errors import quoted, some
from webapp.engine.importers.exported_program.serialized import NotRun
from webapp.engine.lazy import torch
from webapp.engine.weights.safetensors import LazyTensor

from .operators import OPERATORS
from .values import constant

MOST_NODES, MOST_FOLLOWED = 200_000, 10_000  # in the file, and of those that the answer depends on
MOST_OUTPUTS = 100
STANDARD = ("", "ai.onnx")
FLOATS = (1, 10, 11, 16)  # TensorProto.DataType
INTEGERS = (2, 3, 4, 5, 6, 7, 12, 13)
NAMED = 5  # operators that a reason lists
DESCRIBING = (  # attributes that repeat what inputs say, or that hold for another mode
    "kernel_shape seed ratio stash_type saturate cubic_coeff_a extrapolation_value spatial consumed_inputs num_outputs "
    "nearest_mode pads auto_pad softmax_precision round_mode output_padding storage_order momentum training_mode dtype"
)
COPY = "//"  # before the number of a tensor's copy
NBITS = "com.microsoft.MatMulNBits"
DECODERS = ("DequantizeLinear", "com.microsoft.DequantizeLinear", NBITS)  # taken apart before the graph is followed
FROM_INTEGERS = "com.microsoft.MatMulIntegerToFloat"
ROUNDING = ("QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", FROM_INTEGERS)  # likewise
ROUNDED = "pare.Rounded"  # what they become: a step whose input is rounded as its attribute "plan" says
Read = Callable[[Any], "LazyTensor | None"]
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


@dataclass(frozen=True)
class GraphNode:
    """`op` has its domain before it where that is not ONNX's own; `path` is the module that the node tells it is of."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 0
    path: str = ""
    freed: bool = False  # the file is for one sample, and more are given
    guards: Guards = ()  # it belongs to branches: values, and what they are where it runs
    asked: set[str] = field(default_factory=set, compare=False)

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return self.attributes.get(name, default)

    def disregarded(self) -> list[str]:
        """Attributes that say something and that nobody asked for: an operator of a newer kind, for one."""
        found = set(self.attributes) - self.asked - set(DESCRIBING.split())
        return sorted(
            name for name in found if not isinstance(self.attributes[name], (int, float)) or self.attributes[name]
        )


@dataclass(frozen=True)
class GraphInput:
    """A size is None where it is free."""

    name: str
    floats: bool
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Graph:
    """`tensors` are its initializers and constants, by their names in the file."""

    inputs: tuple[GraphInput, ...]
    nodes: tuple[GraphNode, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, LazyTensor]
    left_out: int = 0  # outputs of the file that cannot be followed

    def uses(self) -> Iterator[tuple[GraphNode, int, str]]:
        """Node, place among its inputs, and what stands there."""
        for node in self.nodes:
            for place, name in enumerate(node.inputs):
                if name:
                    yield node, place, name


def graph_of(
    model: Any, flat: FlatGraph, initializers: Mapping[str, LazyTensor], read: Read, alone: bool = False
) -> Graph:
    """Of a ModelProto, its nodes `flat`; `read` reads the tensor that a Constant holds.

    Its first output of floats has to be followed, and is all there is with `alone`; others are left out where they
    cannot, and so is what a language model keeps of its tokens.
    Raises NotRun.
    """
    proto, drawn = model.graph, [node for node in flat.nodes if not node.looped]
    if len(drawn) > MOST_NODES:
        raise NotRun(f"has {len(drawn)} nodes; at most {MOST_NODES} are read")
    if len(proto.sparse_initializer):
        raise NotRun("has sparse initializers")
    if not proto.output:
        raise NotRun("answers with no tensor")
    opset = max((entry.version for entry in model.opset_import if entry.domain in STANDARD), default=1)
    floats = (made.name for made in proto.output if made.type.tensor_type.elem_type in FLOATS)
    main = next(floats, proto.output[0].name)
    makers: dict[str, FlatNode] = {}
    for node in drawn:
        for name in filter(None, node.outputs):
            if name in makers:
                raise NotRun(f"makes {quoted(name)} twice")
            makers[name] = node
    given = {item.name for item in proto.input} - set(initializers)
    answers = list(dict.fromkeys(made.name for made in proto.output if not made.name.startswith(PRESENT)))
    wanted, outputs = _ancestors(main, makers, given | set(initializers)), [main]
    if not alone:
        for name in answers[:MOST_OUTPUTS]:
            with suppress(NotRun):
                wanted |= _ancestors(name, makers, given | set(initializers))
                outputs.append(name)
    outputs = [name for name in answers if name in outputs] or [main]
    kept = [node for node in drawn if any(name in wanted for name in node.outputs)]
    tensors, nodes = dict(initializers), []
    for node in kept:
        if node.proto.op_type == "Constant":
            tensors[node.outputs[0]] = _constant(node.proto, read)
        else:
            nodes.append(_node(node, opset, read))
    if len(nodes) > MOST_FOLLOWED:
        raise NotRun(f"has {len(nodes)} steps; at most {MOST_FOLLOWED} are followed")
    inputs = tuple(_input(item) for item in proto.input if item.name in given)
    return Graph(
        inputs, tuple(_in_order(nodes, given | set(tensors))), tuple(outputs), tensors, len(answers) - len(outputs)
    )


def _full(node: Any) -> str:
    return str(node.op_type) if node.domain in STANDARD else f"{node.domain}.{node.op_type}"


def _ancestors(output: str, makers: Mapping[str, FlatNode], known: set[str]) -> set[str]:
    """All that it is made from. Raises NotRun where an operator in it is not followed."""
    wanted, waiting = set[str](), [output]
    while waiting:
        name = waiting.pop()
        if name in wanted or name in known:
            continue
        if name not in makers:
            raise NotRun(f"needs {quoted(name)}, which nothing in it makes")
        wanted.add(name)
        waiting += filter(None, makers[name].inputs)
    if unknown := sorted(
        {_full(makers[name].proto) for name in wanted} - set(OPERATORS) - {"Constant", *DECODERS, *ROUNDING}
    ):
        raise NotRun(f"uses {some([name[:80] for name in unknown], NAMED)}, which Pare does not run")
    return wanted


def _in_order(nodes: list[GraphNode], known: set[str]) -> Iterator[GraphNode]:
    seen = set(known)
    for node in nodes:
        for name in node.inputs:
            if name and name not in seen:
                raise NotRun(f"needs {quoted(name)} before it is made: its nodes go in a circle or are out of order")
        seen |= set(node.outputs)
        yield node


def _node(node: FlatNode, opset: int, read: Read) -> GraphNode:
    op = node.proto.op_type
    about = {item.name: _attribute(item, op, read) for item in node.proto.attribute if op != IF}
    return GraphNode(_full(node.proto), node.inputs, node.outputs, about, opset, _path(node.proto), guards=node.guards)


def _attribute(item: Any, op: str, read: Read) -> Any:
    match item.type:
        case 1 | 2:
            return float(item.f) if item.type == 1 else int(item.i)
        case 3:
            return item.s.decode("utf-8", "replace")
        case 4 if (held := read(item.t)) is not None:
            return constant(held.load()) if math.prod(held.shape) == 1 else held
        case 6:
            return [float(value) for value in item.floats]
        case 7:
            return [int(value) for value in item.ints]
        case 8:
            return [value.decode("utf-8", "replace") for value in item.strings]
        case _:
            raise NotRun(f"gives {op[:80]} something that is neither number, text nor plain tensor ({item.name[:80]})")


def _constant(node: Any, read: Read) -> LazyTensor:
    item = next(iter(node.attribute), None)
    if item is None:
        raise NotRun("has a Constant without a value")
    if item.type == 4 and (held := read(item.t)) is not None:
        return held
    value = _attribute(item, "Constant", read)
    if item.name in ("value_int", "value_ints", "value_float", "value_floats"):
        dtype = torch.float32 if "float" in item.name else torch.int64
        made = torch.tensor(value, dtype=dtype)
        return LazyTensor(tuple(made.shape), dtype, lambda: made)
    raise NotRun(f"has a Constant that holds {item.name[:80]}, which is no plain tensor")


def _input(item: Any) -> GraphInput:
    about = item.type.tensor_type
    if about.elem_type not in (*FLOATS, *INTEGERS, 9) or not about.HasField("shape"):
        raise NotRun(f"does not tell the shape of its input {quoted(item.name)}, or it is no tensor of numbers")
    sizes = [int(size.dim_value) if size.HasField("dim_value") else None for size in about.shape.dim]
    sizes = [None if size is not None and size < 0 else size for size in sizes]  # -1, as some write it
    if 0 in sizes[1:] or math.prod(size or 1 for size in sizes) > 2**31:
        raise NotRun(f"takes an input of shape {sizes}")
    return GraphInput(item.name, about.elem_type in FLOATS, tuple(sizes))


def _path(node: Any) -> str:
    """The module: "/bert/encoder/layer.0/query/MatMul" and pkg.torch.onnx.name_scopes both tell it."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = [part.strip(" '\"[]") for part in entry.value[:20_000].split(",")]
            return scopes[-2] if len(scopes) > 2 else ""
    return ".".join(node.name.split("/")[1:-1]) if node.name.startswith("/") else ""


def renamed(node: GraphNode, names: Mapping[str, str]) -> GraphNode:
    guards = tuple((names.get(name, name), wanted) for name, wanted in node.guards)
    return replace(node, inputs=tuple(names.get(name, name) for name in node.inputs), guards=guards)
