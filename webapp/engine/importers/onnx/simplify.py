"""A graph made plainer before it is followed, so that its layers can be found in it.

Exporters write a layer as a product and the addition of a bias, give several names to one tensor, and one name to all
biases that happen to be equal. Which tensors a layer owns is told here, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from webapp.engine.importers.onnx.operators.products import LINEAR
from webapp.engine.importers.onnx.operators.recurrent import APART, GATES, in_order
from webapp.engine.weights.safetensors import LazyTensor

from .graph import COPY, Graph, GraphNode, renamed

PARTS: dict[str, dict[int, str]] = {  # operator -> the parts of its layer, by their places among its inputs
    LINEAR: {1: "weight", 2: "bias"},
    "MatMul": {1: "weight"},
    "Gemm": {1: "weight", 2: "bias"},
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "BatchNormalization": {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"},
    "LayerNormalization": {1: "weight", 2: "bias"},
    "RMSNormalization": {1: "weight"},
    "GroupNormalization": {1: "weight", 2: "bias"},
    "InstanceNormalization": {1: "weight", 2: "bias"},
    "com.microsoft.SkipLayerNormalization": {2: "weight", 3: "bias", 4: "skip_bias"},
    "PRelu": {1: "weight"},
    **{f"{APART}{op}": dict.fromkeys(range(4, 12), "") for op in GATES},  # they have their names
}
EVERY = slice(None)
NORM = "Normalization"


@dataclass(frozen=True)
class GraphPart:
    """Where a tensor is used first: the layer's path (perhaps ""), and what it is of it."""

    path: str
    part: str
    op: str


def simplified(graph: Graph) -> tuple[Graph, dict[str, GraphPart]]:
    """The plainer graph, and which of its tensors are parts of layers."""
    graph = _without_copies(graph)
    graph = _with_biases(graph)
    graph = _with_gates_apart(graph)
    return _apart(graph)


def _without_copies(graph: Graph) -> Graph:
    """Tensors go by their own names: Identity, and Cast from float to float, only give another."""
    same: dict[str, str] = {}
    nodes = []
    for found in graph.nodes:
        node = renamed(found, same)
        first = node.inputs[0] if node.inputs else ""
        held = graph.tensors.get(first)
        if held is not None and node.outputs[0] not in graph.outputs:
            widens = node.op == "Cast" and held.dtype.is_floating_point and node.get("to") in (1, 10, 11, 16)
            if node.op == "Identity" or widens:
                same[node.outputs[0]] = first
                continue
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _with_biases(graph: Graph) -> Graph:
    """A MatMul with a weight, whose one reader adds a vector to it, as a linear layer with a bias."""
    readers = Counter(name for _, _, name in graph.uses())
    products = {
        node.outputs[0]: node
        for node in graph.nodes
        if node.op == "MatMul"
        and readers[node.outputs[0]] == 1
        and node.outputs[0] not in graph.outputs
        and _rank(graph, node.inputs[1]) == 2
        and node.inputs[0] not in graph.tensors
    }
    fused: dict[str, GraphNode] = {}
    tensors = dict(graph.tensors)
    gone: set[str] = set()
    for node in graph.nodes:
        if node.op == "Add" and len(node.inputs) == 2:
            for product, bias in (node.inputs, node.inputs[::-1]):
                if product in products and _rank(graph, bias) in (1, 2):
                    weight, held = graph.tensors[products[product].inputs[1]], tensors[bias]
                    if held.shape == (1, weight.shape[1]) and readers[bias] == 1:
                        tensors[bias] = held = _flat(held)
                    if held.shape == weight.shape[1:]:
                        inputs = (*products[product].inputs, bias)
                        path = products[product].path or node.path
                        fused[node.outputs[0]] = replace(node, op=LINEAR, inputs=inputs, path=path)
                        gone.add(product)
                    break
    nodes = [fused.get(node.outputs[0], node) for node in graph.nodes if node.outputs[0] not in gone]
    return replace(graph, nodes=tuple(nodes), tensors=tensors)


def _flat(held: LazyTensor) -> LazyTensor:
    return LazyTensor(held.shape[1:], held.dtype, lambda: held.load().flatten())


def _rank(graph: Graph, name: str) -> int | None:
    held = graph.tensors.get(name)
    return len(held.shape) if held is not None and held.dtype.is_floating_point else None


def _with_gates_apart(graph: Graph) -> Graph:
    """Recurrent layers with the weights that torch has of each direction, in the place of those of all directions."""
    tensors, nodes, layers = dict(graph.tensors), [], Counter[str]()
    for node in graph.nodes:
        x, *given = [*node.inputs, *[""] * 8][:8]
        held = [graph.tensors.get(name) for name in given[:3]]
        if node.op not in GATES or held[0] is None or held[1] is None or (given[2] and held[2] is None) or given[6]:
            nodes.append(node)
            continue
        stem = node.path or node.op.lower()
        number, layers[stem] = layers[stem], layers[stem] + 1
        names = []
        for way in range(held[0].shape[0]):
            for part, whole in _gates(held, way):
                names.append(f"{stem}.{part}_l{number}{'_reverse' * way}")
                tensors[names[-1]] = _in_order(node.op, whole)
        nodes.append(replace(node, op=f"{APART}{node.op}", inputs=(x, *given[3:6], *names)))
    used = {name for node in nodes for name in node.inputs}
    kept = {name: held for name, held in tensors.items() if name in used or name not in _read_by_gates(graph)}
    return replace(graph, nodes=tuple(nodes), tensors=kept)


def _read_by_gates(graph: Graph) -> set[str]:
    return {name for node in graph.nodes if node.op in GATES for name in node.inputs}


def _gates(held: list[LazyTensor | None], way: int) -> Iterator[tuple[str, LazyTensor]]:
    """ "weight_ih", "weight_hh" and the biases of one direction."""
    w, r, b = held
    assert w is not None
    assert r is not None
    yield "weight_ih", _slice(w, way)
    yield "weight_hh", _slice(r, way)
    if b is not None:
        half = b.shape[1] // 2
        yield "bias_ih", _slice(b, way, slice(None, half))
        yield "bias_hh", _slice(b, way, slice(half, None))


def _slice(held: LazyTensor, way: int, rows: slice = EVERY) -> LazyTensor:
    count = len(range(*rows.indices(held.shape[1])))
    return LazyTensor((count, *held.shape[2:]), held.dtype, lambda: held.load()[way, rows])


def _in_order(op: str, held: LazyTensor) -> LazyTensor:
    return LazyTensor(held.shape, held.dtype, lambda: in_order(op, held.load()).contiguous())


def _apart(graph: Graph) -> tuple[Graph, dict[str, GraphPart]]:
    """Each layer has its own vectors: those that were equal were written once."""
    owners: dict[str, set[tuple[str, str]]] = {}
    for node in graph.nodes:
        for _, part, name in _parts(graph, node):
            owners.setdefault(name, set()).add(_owner(node, part))
    for node, place, name in graph.uses():
        if name in owners and place not in PARTS.get(node.op, {}):
            owners[name].add(("", ""))
    tensors, parts, nodes = dict(graph.tensors), dict[str, GraphPart](), []
    copies: dict[tuple[str, str, str], str] = {}
    for node in graph.nodes:
        inputs = list(node.inputs)
        for place, part, name in _parts(graph, node):
            if len(owners[name]) > 1 and len(tensors[name].shape) == 1:
                own = (name, *_owner(node, part))
                if own not in copies:
                    copies[own] = f"{name}{COPY}{len(copies)}"
                    tensors[copies[own]] = tensors[name]
                name = inputs[place] = copies[own]
            parts.setdefault(name, GraphPart(node.path, part, node.op))
        nodes.append(replace(node, inputs=tuple(inputs)))
    used = {name for node in nodes for name in node.inputs}
    kept = {name: held for name, held in tensors.items() if name in used or name not in owners}
    return replace(graph, nodes=tuple(nodes), tensors=kept), parts


def _parts(graph: Graph, node: GraphNode) -> list[tuple[int, str, str]]:
    """Place, part and tensor."""
    places = PARTS.get(node.op, {}).items()
    return [
        (place, part, node.inputs[place])
        for place, part in places
        if place < len(node.inputs) and _rank(graph, node.inputs[place]) is not None
    ]


def _owner(node: GraphNode, part: str) -> tuple[str, str]:
    """A layer goes by its weight, a norm by its answer: the weights of norms may be written once, too."""
    return (node.outputs[0] if node.op.endswith(NORM) or node.op.startswith(APART) else node.inputs[1]), part
