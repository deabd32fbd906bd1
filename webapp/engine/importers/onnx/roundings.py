"""Activations that a graph rounds to 8-bit integers, taken apart: rounding a product's input is a step by itself.

What is known is how Pare writes them (`exporters/onnx/integers.py`, `convolutions.py`), and of what onnxruntime's
quantization writes: pairs of QuantizeLinear and DequantizeLinear, and DynamicQuantizeLinear with MatMulInteger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from webapp.engine.lazy import torch
from webapp.engine.math.activations import SMALLEST, TOP
from webapp.engine.weights.activations import Activations, Range

from .graph import COPY, FROM_INTEGERS, ROUNDED, ROUNDING, Graph, GraphNode, renamed
from .integer_tensors import IntegerTensor
from .integer_weights import with_nodes

PRODUCTS = ("MatMul", "Gemm", "Conv")
FLOAT = 1  # TensorProto.DataType


@dataclass(frozen=True)
class _Fact:
    """What a value is of the activations `x`: its codes, their scale, the lowest of each row …"""

    what: str
    x: str
    plan: Activations | None = None
    more: tuple[str, ...] = ()  # names of constants that it was made with


def with_roundings(graph: Graph) -> Graph:
    """The graph with ROUNDED before products, and their weights under a DequantizeLinear."""
    found = _Finding(graph)
    nodes = [made for node in graph.nodes for made in found.taken(node)]
    return with_nodes(graph, nodes) if found.any else graph


class _Finding:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.facts = graph, dict[str, _Fact]()
        self.makers = {name: node for node in graph.nodes for name in node.outputs}
        self.any = False
        self.constant: dict[str, str] = {name: name for name in graph.tensors}  # value that depends on no input

    def taken(self, node: GraphNode) -> list[GraphNode]:
        if node.inputs and all(name in self.constant for name in node.inputs if name):
            self.constant |= {name: name for name in node.outputs}
            return [node]
        facts = [self.facts.get(name) for name in node.inputs]
        output = node.outputs[0]
        match node.op, facts:
            case "DynamicQuantizeLinear", _:
                plan, x = Activations(by="tensor"), node.inputs[0]
                parts = ("codes", "scale", "zero")
                self.facts |= {n: _Fact(part, x, plan) for n, part in zip(node.outputs, parts, strict=False)}
            case "DequantizeLinear", [_Fact("codes", x, plan), *_] if self._same_grid(node, plan):
                self.any = True
                return [replace(node, op=ROUNDED, inputs=(x,), attributes={"plan": plan})]
            case "Add", [_Fact("part of product", x, plan, (weight, scale)), _Fact("offset", y, _, (sums,))] if (
                x == y and self._are_sums(weight, scale, sums)
            ):
                return self._product(node, x, plan, (weight, scale))
            case "Mul", [_Fact("sums", x, plan, (weight, *zero)), _Fact("both scales", y, _, (scale,))] if x == y:
                return self._product(node, x, plan, (weight, scale, *zero))
            case _:
                fact = self._fact(node, facts)
                if fact is not None:
                    self.facts[output] = fact
        return [node]

    def _fact(self, node: GraphNode, facts: list[_Fact | None]) -> _Fact | None:
        given = (*node.inputs, "", "")
        match node.op, facts:
            case "QuantizeLinear", [_Fact("steps", x), *_] if self._grid(*given[1:3]) == Range(scale=1, zero=0):
                return _Fact("codes", x, Activations(by="token"))
            case "QuantizeLinear", _:
                grid = self._grid(given[1], given[2])
                plan = None if grid is None else Activations(by="calibration", input=grid)
                return None if plan is None else _Fact("codes", given[0], plan)
            case "ReduceMax" | "ReduceMin", _ if self._of_rows(node):
                return _Fact("high" if node.op == "ReduceMax" else "low", given[0])
            case "Sub", [_Fact("high", x), _Fact("low", y)] if x == y:
                return _Fact("span", x)
            case "Sub", [_, _Fact("low", x)] if given[0] == x:
                return _Fact("above", x)
            case "Max", [_Fact("span", x), None] if self._is(given[1], SMALLEST):
                return _Fact("some span", x)
            case "Mul", [_Fact("some span", x), None] if self._is(given[1], 1 / TOP):
                return _Fact("row scale", x)
            case "Div", [_Fact("above", x), _Fact("row scale", y)] if x == y:
                return _Fact("steps", x)
            case op, [_Fact("codes", x, Activations(by="token") as plan), *_] if op == FROM_INTEGERS:
                known = self._is(given[2], 1) and len(node.inputs) == 4 and given[1] in self.constant
                return _Fact("product", x, plan, (given[1], given[3])) if known and given[3] in self.constant else None
            case "Mul", [_Fact("product", x, plan, more), _Fact("row scale", y)] if x == y:
                return _Fact("part of product", x, plan, more)
            case "Mul", [_Fact("low", x), None] if given[1] in self.constant:
                return _Fact("offset", x, more=(given[1],))
            case "MatMulInteger", [_Fact("codes", x, Activations(by="tensor") as plan), _, _Fact("zero", y), *_]:
                more = tuple(filter(None, (given[1], given[3])))
                return _Fact("sums", x, plan, more) if x == y and all(n in self.constant for n in more) else None
            case "Cast", [_Fact("sums")] if node.get("to") == FLOAT:
                return facts[0]
            case "Mul", [_Fact("scale", x), None] if given[1] in self.constant:
                return _Fact("both scales", x, more=(given[1],))
        return None

    def _product(self, node: GraphNode, x: str, plan: Activations | None, weight: tuple[str, ...]) -> list[GraphNode]:
        """The product of rounded floats with a weight (in, out)."""
        self.any, output = True, node.outputs[0]
        rounded, decoded = f"{output}{COPY}rounded", f"{output}{COPY}weight"
        return [
            replace(node, op=ROUNDED, inputs=(x,), outputs=(rounded,), attributes={"plan": plan}),
            replace(node, op="DequantizeLinear", inputs=weight, outputs=(decoded,), attributes={"axis": 1}),
            replace(node, op="MatMul", inputs=(rounded, decoded), attributes={}),
        ]

    def _number(self, name: str) -> float | None:
        held = self.graph.tensors.get(name)
        return float(held.load().flatten()[0]) if held is not None and math.prod(held.shape) == 1 else None

    def _is(self, name: str, wanted: float) -> bool:
        found = self._number(name)
        return found is not None and math.isclose(found, wanted, rel_tol=1e-6)

    def _grid(self, scale: str, zero: str) -> Range | None:
        """As for unsigned codes, which is what they are without a zero point. None where there are several."""
        size, held = self._number(scale), self.graph.tensors.get(zero)
        if (
            size is None
            or not 0 < size < math.inf
            or (held is not None and held.dtype not in (torch.int8, torch.uint8))
        ):
            return None
        place = self._number(zero) if held is not None else 0
        if place is None:
            return None
        return Range(scale=size, zero=int(place) + (128 if held is not None and held.dtype == torch.int8 else 0))

    def _same_grid(self, node: GraphNode, plan: Activations | None) -> bool:
        given = (*node.inputs, "", "")
        return plan is not None and plan.input is not None and self._grid(given[1], given[2]) == plan.input

    def _of_rows(self, node: GraphNode) -> bool:
        held = self.graph.tensors.get(node.inputs[1]) if len(node.inputs) > 1 else None
        return held is not None and held.load().flatten().tolist() == [-1] and node.get("keepdims", 1) == 1

    def _are_sums(self, weight: str, scale: str, sums: str) -> bool:
        """Whether a constant is what each output's weights add up to, which a row's lowest value is multiplied with."""
        held = self.graph.tensors.get(sums)
        codes, scales = self._source(weight), self._source(scale)
        if held is None or codes is None or scales is None:
            return False
        found = codes.flatten(1).float().sum(1) * scales.flatten().float()
        return found.shape == held.shape and torch.allclose(found, held.load().float(), rtol=1e-3, atol=1e-4)

    def _source(self, name: str) -> Any:
        """The constant of the file behind one that is transposed, reshaped or cast."""
        while name in self.makers and self.makers[name].op in ("Transpose", "Reshape", "Cast"):
            name = self.makers[name].inputs[0]
        held = self.graph.tensors.get(name)
        return None if held is None else held.load()


@dataclass
class Roundings:
    """`plans` by the weights' names; `left` is a step that rounds what no product with a weight of integers takes."""

    graph: Graph
    plans: dict[str, Activations] = field(default_factory=dict)
    left: str | None = None


def without_roundings(graph: Graph, clipped: bool = False) -> Roundings:
    """The graph without ROUNDED, and what it said of the products' inputs and of convolutions' results.

    `clipped`: nobody is to round there, and codes from zero up were in the place of a ReLU.
    """
    found = Roundings(graph)
    if rest := next((node.op for node in graph.nodes if node.op in ROUNDING), None):
        found.left = rest
        return found
    rounded = {node.outputs[0]: node for node in graph.nodes if node.op == ROUNDED}
    if not rounded:
        return found
    uses: dict[str, list[tuple[GraphNode, int]]] = {}
    for node, place, name in graph.uses():
        uses.setdefault(name, []).append((node, place))
    makers = {name: node for node in graph.nodes for name in node.outputs}
    inputs: dict[str, list[Activations | None]] = {}
    results: dict[str, Activations] = {}
    for node in graph.nodes:
        weight = _weight(graph, node)
        if weight is not None:
            before = rounded.get(node.inputs[0])
            inputs.setdefault(weight, []).append(before.attributes["plan"] if before is not None else None)
    for value, node in rounded.items():
        plan, x = node.attributes["plan"], node.inputs[0]
        readers = uses.get(value, [])
        if value in graph.outputs:
            found.left = "QuantizeLinear"
        elif readers and all(place == 0 and _weight(graph, reader) is not None for reader, place in readers):
            continue
        elif x in makers and makers[x].op == "Conv" and len(uses.get(x, ())) == 1 and plan.input is not None:
            weight = _weight(graph, makers[x])
            found.left = found.left if weight is not None and weight not in results else "QuantizeLinear"
            results[weight or ""] = plan
        else:
            found.left = "QuantizeLinear"
    for weight, plans in inputs.items():
        plan, result = plans[0], results.get(weight)
        if any(other != plan for other in plans) or (result is not None and (plan is None or plan.input is None)):
            found.left = "QuantizeLinear"
        elif plan is not None:
            found.plans[weight] = plan if result is None else plan.model_copy(update={"result": result.input})
    same: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        node = renamed(node, same)
        if node.op == ROUNDED and clipped and _above_zero(node.attributes["plan"]):
            nodes.append(replace(node, op="Relu", attributes={}))
        elif node.op == ROUNDED and node.outputs[0] in graph.outputs:
            nodes.append(replace(node, op="Identity", attributes={}))
        elif node.op == ROUNDED:
            same[node.outputs[0]] = node.inputs[0]
        else:
            nodes.append(node)
    found.graph = replace(graph, nodes=tuple(nodes))
    return found


def _above_zero(plan: Activations) -> bool:
    return plan.input is not None and plan.input.zero == 0


def _weight(graph: Graph, node: GraphNode) -> str | None:
    """The name of the integers that a product multiplies with."""
    name = node.inputs[1] if node.op in PRODUCTS and len(node.inputs) > 1 else ""
    held = graph.tensors.get(name)
    return held.matrix.name if isinstance(held, IntegerTensor) else None
