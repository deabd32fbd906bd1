"""Weights that a graph decodes of integers, taken apart: codes with scales, which is how Pare stores them too.

What is known is how Pare writes them (`exporters/onnx/forms.py`), DequantizeLinear, and MatMulNBits of onnxruntime.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from webapp.engine.facts import PLAIN, Layout
from webapp.engine.lazy import Tensor, torch
from webapp.engine.weights.safetensors import LazyTensor

from .graph import COPY, DECODERS, NBITS, ROUNDED, Graph, GraphNode, renamed
from .integer_tensors import (
    BYTES,
    WIDEST,
    IntegerMatrix,
    IntegerParts,
    IntegerTensor,
    column,
    for_rows,
    over,
    plain,
    same_weight,
    transposed,
    unpacked,
)
from .operators.recurrent import GATES

FLOAT, PLACES = 1, (6, 7)  # TensorProto.DataType of what integers are cast to: to be scaled, or to be looked up
WIDE = torch.int32  # of biases
DTYPES = ("float16", "bfloat16", "float32", "float64")
BIAS = re.compile(r"(\.weight(?=\.bias_codes))|_codes$|_quantized$")
SUFFIX = re.compile(r"(\.codes|\.blocks|_quantized|(_DQ)?_Q\d+(G\d+)?)$")  # of Pare, and of onnxruntime's quantization


@dataclass(frozen=True)
class _FileNumbers:
    """Integers or floats of the file, perhaps cast to other numbers; of a `group` each is for so many of `columns`."""

    tensor: LazyTensor
    name: str
    group: int = 0
    columns: int = 0


@dataclass(frozen=True)
class _Bias:
    """Floats in integers, of 32 bits, which are no fewer bytes, or by their owner's wish; they become floats."""

    tensor: LazyTensor
    name: str


@dataclass(frozen=True)
class _Units:
    """Codes before they are scaled."""

    codes: _FileNumbers
    zero: _FileNumbers | None = None
    levels: _FileNumbers | None = None


@dataclass(frozen=True)
class _Reshaped:
    """A weight whose axes are about to be put in another order."""

    weight: IntegerTensor
    shape: tuple[int, ...]
    swapped: bool = False


@dataclass(frozen=True)
class _Rows:
    """Rows of something that are looked up at the places `x`."""

    what: Any  # as `_Taking.values` has it
    x: str
    path: str


def with_integers(graph: Graph, told: Mapping[str, Any], asked: bool = False) -> Graph:
    """The graph with weights in the place of the steps that decode them. `told`: what the file says of its weights.

    `asked`: all become floats, and vectors may.
    """
    found = _Taking(graph, told, asked)
    nodes = [node for each in graph.nodes for node in found.taken(each)]
    if not found.made and not found.biases:
        return graph
    return with_nodes(graph, found.tied(nodes), {**found.made, **found.biases})


def undecoded(graph: Graph, asked: bool) -> str | None:
    """A step that decodes integers in a way that is not known here, or, unless `asked` for floats, would make some."""
    return next(
        (
            node.op
            for node in graph.nodes
            if node.op in DECODERS
            or (
                not asked
                and node.op in GATES
                and any(isinstance(graph.tensors.get(name), IntegerTensor) for name in node.inputs)
            )
        ),
        None,
    )


def with_nodes(graph: Graph, nodes: list[GraphNode], made: Mapping[str, LazyTensor] | None = None) -> Graph:
    """The graph with those of the nodes that its answer depends on, and without tensors that now nothing reads."""
    kept, wanted = [], set(graph.outputs)
    for node in reversed(nodes):
        if wanted & set(node.outputs):
            wanted |= {*node.inputs, *(name for name, _ in node.guards)}
            kept.append(node)
    before = {name for _, _, name in graph.uses()}
    left = {name: held for name, held in graph.tensors.items() if name in wanted or name not in before}
    return replace(
        graph, nodes=tuple(kept[::-1]), tensors=left | {n: t for n, t in (made or {}).items() if n in wanted}
    )


class _Taking:
    """Goes through the nodes in their order; `values` are what decoding has come to, `made` the weights."""

    def __init__(self, graph: Graph, told: Mapping[str, Any], asked: bool) -> None:
        self.graph, self.told, self.asked = graph, told, asked
        self.values: dict[str, Any] = {}
        self.made: dict[str, IntegerTensor] = {}
        self.biases: dict[str, LazyTensor] = {}
        self.whole = {"bits": WIDEST} if any(node.op == ROUNDED for node in graph.nodes) else {}  # as kernels take them
        self.matrices: dict[tuple[Any, ...], IntegerMatrix] = {}  # by what they are made from
        self.readers: dict[str, list[str]] = {}
        for node, _, name in graph.uses():
            self.readers.setdefault(name, []).append(node.op)

    def taken(self, node: GraphNode) -> list[GraphNode]:
        """What becomes of a node. Those whose results nobody reads any more are left for `_needed`."""
        if node.op == NBITS:
            return self._product(node)
        value = self._value(node)
        if isinstance(value, _Rows) and isinstance(value.what, IntegerTensor):
            inputs = (self._named(value.what), value.x)
            return [replace(node, op="Gather", inputs=inputs, attributes={}, path=value.path)]
        if value is not None:
            self.values[node.outputs[0]] = value
            return [node]
        read = {name: self.values.get(name) for name in node.inputs}
        names = {name: self._named(each) for name, each in read.items() if isinstance(each, IntegerTensor)}
        names |= {name: self._bias(each) for name, each in read.items() if isinstance(each, _Bias)}
        return [renamed(node, names)]

    def _at(self, node: GraphNode, place: int) -> Any:
        """What an input is: something of a weight, a tensor of the file, or None."""
        name = node.inputs[place] if place < len(node.inputs) else ""
        held = self.graph.tensors.get(name)
        return self.values.get(name) if held is None else _FileNumbers(held, name)

    def _value(self, node: GraphNode) -> Any:
        first, second = self._at(node, 0), self._at(node, 1)
        match node.op, first, second:
            case "DequantizeLinear", _FileNumbers(), _FileNumbers() if len(first.tensor.shape) < 2:
                return _bias(first, second, self._at(node, 2)) if self.asked or first.tensor.dtype == WIDE else None
            case "DequantizeLinear" | "com.microsoft.DequantizeLinear", _FileNumbers(), _FileNumbers():
                return self._dequantized(node, first, second)
            case "Identity", _, _:
                return first
            case "Cast", _FileNumbers() | _Rows(), _ if node.get("to") in (FLOAT, *PLACES):
                return first
            case "Gather", _FileNumbers(), _FileNumbers() if node.get("axis", 0) == 1:
                return _spread(first, second)
            case "Gather", _FileNumbers(), _FileNumbers() if not node.get("axis", 0) and second.tensor.dtype in BYTES:
                return _Units(second, levels=first)
            case "Gather", _FileNumbers(), None if not node.get("axis", 0) and len(first.tensor.shape) == 2:
                return _Rows(first, node.inputs[1], node.path)
            case "Sub", _FileNumbers(), _FileNumbers():
                return _Units(first, zero=second)
            case "Sub", _Rows(what=_FileNumbers()), _Rows(what=_FileNumbers()) if first.x == second.x:
                return replace(first, what=_Units(first.what, zero=second.what))
            case "Mul", _FileNumbers() | _Units(), _FileNumbers():
                return self._scaled(first, second)
            case "Mul", _Rows(), _Rows(what=_FileNumbers()) if first.x == second.x:
                weight = self._scaled(first.what, second.what)
                return None if weight is None else replace(first, what=weight)
            case "Transpose", _FileNumbers(tensor=LazyTensor(shape=(_, _))), _ if node.get("perm") in (None, [1, 0]):
                return replace(first, tensor=over(first.tensor, transposed))
            case "Reshape", _FileNumbers(), _FileNumbers():
                shape = second.tensor.load().flatten().tolist()
                size, known = math.prod(first.tensor.shape), math.prod(length for length in shape if length != -1)
                fits = known > 0 and shape.count(-1) < 2 and (size == known if -1 not in shape else size % known == 0)
                return replace(first, tensor=over(first.tensor, partial(torch.reshape, shape=shape))) if fits else None
            case "Transpose", IntegerTensor(shape=(_, _)), _ if node.get("perm") in (None, [1, 0]):
                always = set(self.readers[node.inputs[0]]) == {"Transpose"}  # else one weight is used both ways
                return first.turned() if always else None
            case "Transpose", _Reshaped(swapped=False), _ if node.get("perm") == [0, 2, 1, 3]:
                return replace(first, swapped=True)
            case "Reshape", IntegerTensor() | _Reshaped(), _FileNumbers():
                return self._reshaped(node, first, tuple(second.tensor.load().flatten().tolist()))
        return None

    def _scaled(self, given: Any, scale: _FileNumbers) -> IntegerTensor | None:
        units = given if isinstance(given, _Units) else _Units(given)
        codes, zero = units.codes, units.zero
        columns = math.prod(codes.tensor.shape[1:])
        if codes.group or len(codes.tensor.shape) != 2 or (scale.group and scale.columns != columns):
            return None
        if zero is not None and (zero.group, zero.columns) != (scale.group, scale.columns):
            return None
        zeros, levels = (None if part is None else part.tensor for part in (units.zero, units.levels))
        parts = IntegerParts(codes.tensor, scale.tensor, zeros, levels, group=scale.group)
        return self._weight(codes.name, (codes.name, scale.name, zero and zero.name), parts)

    def _dequantized(self, node: GraphNode, codes: _FileNumbers, scale: _FileNumbers) -> IntegerTensor | None:
        zero, shape, block = self._at(node, 2), codes.tensor.shape, int(node.get("block_size", 0))
        if (zero is None) != (not "".join(node.inputs[2:])) or len(shape) < 2 or scale.group:
            return None
        if zero is not None and (not isinstance(zero, _FileNumbers) or zero.tensor.shape != scale.tensor.shape):
            return None
        axis, scales = int(node.get("axis", 1)) % len(shape), scale.tensor.shape
        uniform = not block and math.prod(scales) == 1
        rows_first = uniform or axis == (1 if block else 0)
        if not rows_first and (len(shape) != 2 or axis != (0 if block else 1)):
            return None
        arranged: Callable[[Tensor], Tensor]
        if uniform:
            arranged = partial(for_rows, rows=shape[0])
        elif block:
            arranged = plain if rows_first else transposed
        else:
            arranged = column
        if not uniform and len(scales) != (2 if block else 1):
            return None
        parts = IntegerParts(
            over(codes.tensor, plain if rows_first else transposed),
            over(scale.tensor, arranged),
            None if zero is None else over(zero.tensor, arranged),
            group=block,
        )
        weight = self._weight(codes.name, (codes.name, scale.name, axis, block), parts, uniform)
        if weight is None:
            return None
        return IntegerTensor.of(weight.matrix, shape) if rows_first else weight.turned()

    def _product(self, node: GraphNode) -> list[GraphNode]:
        """MatMulNBits as the product with a weight (in, out)."""
        given = [self._at(node, place) for place in range(1, 5)]
        named = [*node.inputs, *[""] * 6][:6]
        columns, rows, bits, block = (int(node.get(name, 0)) for name in ("K", "N", "bits", "block_size"))
        if bits not in (4, 8) or min(block, rows, columns) < 1 or named[4] or not isinstance(given[0], _FileNumbers):
            return [node]
        if not isinstance(given[1], _FileNumbers) or (named[3] and not isinstance(given[2], _FileNumbers)):
            return [node]
        codes, scale, zero = (part and part.tensor for part in given[:3])
        blocks = -(-columns // block)
        shape, middle = (rows, blocks), 2 ** (bits - 1)
        wanted = [(codes, blocks * block), (zero, blocks)] if zero is not None else [(codes, blocks * block)]
        packed = all(t.dtype == torch.uint8 and math.prod(t.shape) == rows * -(-n * bits // 8) for t, n in wanted)
        if not packed or math.prod(scale.shape) != rows * blocks:
            return [node]

        def numbers(held: LazyTensor, count: int) -> LazyTensor:
            """int8, zero in the middle where none is told."""

            def load() -> Tensor:
                apart = unpacked(held.load().reshape(rows, -1), bits)[:, :count]
                return apart.contiguous() if zero is not None else (apart.to(torch.int16) - middle).to(torch.int8)

            return LazyTensor((rows, count), torch.uint8 if zero is not None else torch.int8, load)

        parts = IntegerParts(
            numbers(codes, columns),
            over(scale, partial(torch.reshape, shape=shape)),
            None if zero is None else numbers(zero, blocks),
            group=block,
            repeated=True,
        )
        weight = self._weight(named[1], (named[1], named[2], named[3], block), parts)
        if weight is None:
            return [node]
        output = node.outputs[0]
        product, inputs = f"{output}//product" if named[5] else output, (named[0], self._named(weight.turned()))
        made = [replace(node, op="MatMul", inputs=inputs, outputs=(product,), attributes={})]
        if named[5]:
            made.append(replace(node, op="Add", inputs=(product, named[5]), attributes={}))
        return made

    def _reshaped(self, node: GraphNode, given: Any, shape: tuple[int, ...]) -> Any:
        weight = given.weight if isinstance(given, _Reshaped) else given
        if min(shape, default=0) < 1 or math.prod(shape) != math.prod(weight.shape) or weight.layout != PLAIN:
            return None
        if not isinstance(given, _Reshaped):
            if self.readers.get(node.outputs[0]) == ["Transpose"] and len(shape) == 4:
                return _Reshaped(weight, shape)
            return IntegerTensor.of(weight.matrix, shape)
        groups, outputs, inputs, places = given.shape
        layout = Layout(transposed=True, groups=groups)
        fits = given.swapped and len(shape) > 1 and shape[0] % groups == 0
        fits = fits and layout.apart(shape) == (groups, inputs, outputs, places)
        return IntegerTensor.of(weight.matrix, shape, layout) if fits else None

    def _weight(
        self, name: str, made_of: tuple[Any, ...], parts: IntegerParts, uniform: bool = False
    ) -> IntegerTensor | None:
        """(rows, columns); None where its parts do not fit each other."""
        if not parts.fit:
            return None
        if made_of not in self.matrices:
            stem = SUFFIX.sub("", name) or name
            told = self.told.get(stem)
            meta = told if isinstance(told, Mapping) and told.get("kind") == "quantized" else {}
            meta = meta if meta.get("dtype") in DTYPES else self.whole
            rows, columns = parts.codes.shape[0], math.prod(parts.codes.shape[1:])
            read = partial(parts.read, meta)
            self.matrices[made_of] = IntegerMatrix(stem, rows, columns, read, meta, uniform)
        return IntegerTensor.of(self.matrices[made_of])

    def _named(self, weight: IntegerTensor) -> str:
        """Of the one that holds the same, if there is such; else of a new one. No value in the graph is called so."""
        stem, number = weight.matrix.name, 0
        while (name := f"{stem}{COPY}{number}") in self.made and not same_weight(self.made[name], weight):
            number += 1
        self.made.setdefault(name, weight)
        return name

    def _bias(self, bias: _Bias) -> str:
        name = f"{bias.name}{COPY}floats"
        self.biases[name] = bias.tensor
        return name

    def tied(self, nodes: list[GraphNode]) -> list[GraphNode]:
        """Of what is there both ways round, a table of embeddings that is the head too, one is made of the other."""
        for turned, weight in list(self.made.items()):
            if weight.layout == PLAIN or len(weight.shape) != 2:
                continue
            upright = weight.turned()
            names = (n for n, each in self.made.items() if each.matrix.name == weight.matrix.name)
            other = next((name for name in names if same_weight(self.made[name], upright)), None)
            if other is None:
                continue
            del self.made[turned], self.made[other]
            own = min(turned, other)
            self.made[own] = upright
            view = f"{own}{COPY}turned"
            first = GraphNode("Transpose", (own,), (view,), {"perm": [1, 0]})
            nodes = [first, *(renamed(node, {turned: view, other: own}) for node in nodes)]
        return nodes


def _bias(codes: _FileNumbers, scale: _FileNumbers, zero: Any) -> _Bias | None:
    """float32 (n,), with a scale and a zero point for each or one for all."""
    shape = codes.tensor.shape
    others = (scale, zero) if isinstance(zero, _FileNumbers) else (scale,)
    if any(each.group or each.tensor.shape not in ((), (1,), shape) for each in others):
        return None

    def load() -> Tensor:
        units = codes.tensor.load().to(torch.float64)  # which holds 32 bits
        if isinstance(zero, _FileNumbers):
            units = units - zero.tensor.load()
        return (units * scale.tensor.load()).to(torch.float32)

    return _Bias(LazyTensor(shape, torch.float32, load), BIAS.sub("", codes.name))


def _spread(per_group: _FileNumbers, places: _FileNumbers) -> _FileNumbers | None:
    """A Gather that gives each column what its group has."""
    columns = math.prod(places.tensor.shape)
    if len(places.tensor.shape) != 1 or places.tensor.dtype.is_floating_point or not columns or per_group.group:
        return None
    groups = places.tensor.load().to(torch.int64)
    size = int((groups == 0).sum())
    same = size > 0 and torch.equal(groups, torch.arange(columns) // size)
    return replace(per_group, group=size, columns=columns) if same else None
