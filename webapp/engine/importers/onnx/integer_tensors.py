"""A weight of integers that a graph decodes: codes with scales as the file has them, read as Pare stores them.

The values are those that the graph computes, code by code and scale by scale; nothing is rounded again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from webapp.engine.errors import CheckpointRefused
from webapp.engine.facts import PLAIN, Layout
from webapp.engine.importers.base import Opened
from webapp.engine.importers.quantized import ASK, UPLOAD_INSTEAD
from webapp.engine.importers.stored_forms import MALFORMED
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math.quantizers import Grid, stored_scale
from webapp.engine.weights import Dense, Quantized, dtype_of
from webapp.engine.weights.activations import Activations
from webapp.engine.weights.held import FiledWeight
from webapp.engine.weights.memory import is_want_of_memory
from webapp.engine.weights.safetensors import LazyTensor

BYTES = (torch.int8, torch.uint8)
SCALES = (torch.float16, torch.bfloat16, torch.float32)
NARROWEST, WIDEST = 2, 8  # bits
LEVELS = [(2**bits,) for bits in range(1, WIDEST + 1)]


@dataclass(frozen=True, eq=False)
class IntegerMatrix:
    """A matrix (rows, columns) of codes on a grid, under the weight's `name`; `read` gives both anew each time.

    `meta` is what the file says of it, as far as that fits. `uniform`: all of it has one scale.
    """

    name: str
    rows: int
    columns: int
    read: Callable[[], tuple[Tensor, Grid]]
    meta: Mapping[str, Any] = field(default_factory=dict)
    uniform: bool = False

    def turned(self) -> IntegerMatrix:
        """The transpose, of one scale."""

        def read() -> tuple[Tensor, Grid]:
            codes, grid = self.read()
            zero = grid.zero_point
            scale, zero = (part if part is None else part[:1].expand(self.columns, 1) for part in (grid.scale, zero))
            assert scale is not None
            zero = zero if zero is None else zero.contiguous()
            return codes.t().contiguous(), replace(grid, scale=scale.contiguous(), zero_point=zero)

        return replace(self, rows=self.columns, columns=self.rows, read=read)


@dataclass(frozen=True, eq=False)
class IntegerTensor(LazyTensor):
    """The float32 values of a weight that lies in its `layout` as such a matrix."""

    matrix: IntegerMatrix = field(kw_only=True)
    layout: Layout = field(default=PLAIN, kw_only=True)

    @classmethod
    def of(cls, matrix: IntegerMatrix, shape: tuple[int, ...] | None = None, layout: Layout = PLAIN) -> IntegerTensor:
        shape = (matrix.rows, matrix.columns) if shape is None else shape

        def load() -> Tensor:
            return _encoded(matrix, shape, layout).decode()

        return cls(shape, torch.float32, load, matrix=matrix, layout=layout)

    def encoded(self) -> Quantized:
        return _encoded(self.matrix, self.shape, self.layout)

    def turned(self) -> IntegerTensor:
        if self.matrix.uniform and self.layout == PLAIN:
            return IntegerTensor.of(self.matrix.turned())
        layout = PLAIN if self.layout.transposed else Layout(transposed=True)
        return IntegerTensor.of(self.matrix, self.shape[::-1], layout)


def _encoded(matrix: IntegerMatrix, shape: tuple[int, ...], layout: Layout) -> Quantized:
    codes, grid = matrix.read()
    dtype = dtype_of(matrix.meta.get("dtype", "float32"))
    return Quantized(codes, grid, shape, dtype, layout, bool(matrix.meta.get("pruned")))


@dataclass(frozen=True)
class IntegerParts:
    """codes (rows, ...), scale and zero (rows, groups), as the file has them."""

    codes: LazyTensor
    scale: LazyTensor
    zero: LazyTensor | None = None
    levels: LazyTensor | None = None
    group: int = 0
    repeated: bool = False  # scales may stand there several times

    @property
    def fit(self) -> bool:
        rows, columns = self.codes.shape[0], math.prod(self.codes.shape[1:])
        groups = -(-columns // self.group) if self.group else 1
        if not rows or not columns or self.codes.dtype not in BYTES or self.scale.dtype not in SCALES:
            return False
        if self.levels is not None:
            known = self.levels.dtype == torch.float32 and self.levels.shape in LEVELS
            if not known or self.zero is not None or self.codes.dtype != torch.uint8:
                return False
        zero = self.zero
        return self.scale.shape == (rows, groups) and (
            zero is None or (zero.shape == (rows, groups) and zero.dtype == self.codes.dtype)
        )

    def read(self, meta: Mapping[str, Any]) -> tuple[Tensor, Grid]:
        """Of as few bits as hold the codes, where the file does not say how many."""
        codes, scale, told = self.codes.load().flatten(1), self.scale.load(), meta.get("bits")
        zero = None if self.zero is None else self.zero.load()
        group = self.group if self.group < codes.shape[1] else 0
        if self.repeated:
            group, scale, zero = _fewest(group, scale, zero, meta.get("group"))
        narrow = stored_scale(scale.float())
        if told is not None and torch.equal(narrow.float(), scale.float()):
            scale = narrow if scale.dtype == torch.float32 else scale  # as Pare has them, wherever nothing is lost
        if self.levels is not None:
            levels = self.levels.load()
            if int(codes.max()) >= len(levels):
                raise ValueError("it has codes beyond its codebook")
            return codes, Grid(len(levels).bit_length() - 1, group, scale, None, levels)
        wide, middle = codes.to(torch.int16), None
        if zero is None:
            middle = 0
        elif (told is None or codes.dtype == torch.int8) and bool((zero == zero.reshape(-1)[0]).all()):
            middle = int(zero.reshape(-1)[0])
        if middle is not None:
            low, high = int(wide.min()) - middle, int(wide.max()) - middle
            fewest = max(NARROWEST, (max(-low - 1, high)).bit_length() + 1)
            if fewest <= WIDEST:
                bits = told if type(told) is int and fewest <= told <= WIDEST else fewest
                wide += 2 ** (bits - 1) - middle
                return wide.to(torch.uint8), Grid(bits, group, scale)
        signed = codes.dtype == torch.int8
        zero = torch.zeros(scale.shape, dtype=codes.dtype) if zero is None else zero
        bits, offsets = WIDEST, zero.to(torch.int16)
        if signed:
            wide, offsets = wide + 128, offsets + 128
        else:
            fewest = max(NARROWEST, max(int(wide.max()), int(offsets.max())).bit_length())
            bits = told if type(told) is int and fewest <= told <= WIDEST else fewest
        return wide.to(torch.uint8), Grid(bits, group, scale, offsets.to(torch.uint8).contiguous())


def _fewest(group: int, scale: Tensor, zero: Tensor | None, told: object) -> tuple[int, Tensor, Tensor | None]:
    """Groups as large as they can be, or as they are `told` to be, where the numbers of several are the same."""
    both = [part for part in (scale, zero) if part is not None]

    def alike(times: int) -> bool:
        """Whether that many neighbours have the same numbers, from the first on."""
        spread = (part[:, ::times].repeat_interleave(times, 1)[:, : part.shape[1]] for part in both)
        return all(torch.equal(part, again) for part, again in zip(both, spread, strict=True))

    blocks = scale.shape[1]
    if type(told) is int and group and told >= 0 and told % group == 0 and alike(told // group or blocks):
        times = told // group or blocks
    else:
        times = blocks if alike(blocks) else 1
        while times < blocks and alike(2 * times):
            times *= 2
    if times >= blocks:
        group = 0
    else:
        group *= times
    fewer = [part[:, ::times].contiguous() for part in both]
    return group, fewer[0], fewer[1] if len(fewer) > 1 else None


def keep_stored(opened: Opened, told: Mapping[str, Any], plans: Mapping[str, Activations], filename: str) -> None:
    """Moves what is no plain tensor into `opened.stored`: integers, and what Pare `told` of that it was pruned.

    `plans` are of the inputs that weights are multiplied with, by the weights' names. Raises CheckpointRefused.
    """
    layers = json.loads(opened.metadata["pare_architecture"])["program"]["layers"]
    for name, tensor in list(opened.tensors.items()):
        if isinstance(tensor, IntegerTensor):
            if tensor.layout.transposed and len(tensor.shape) == 2 and name.rpartition(".")[0] in layers:
                raise CheckpointRefused(
                    f"{name} in {filename} has a scale for each input, and Pare has scales of outputs, or of groups of "
                    f"inputs; {UPLOAD_INSTEAD}, or upload it again and {ASK}"
                )
            if plan := plans.get(tensor.matrix.name):
                path = name.rpartition(".")[0]
                opened.activations[path] = _of_layer(plan, path, tensor, path in layers, filename)
            opened.stored[name] = _filed(name, tensor, filename)
            del opened.tensors[name]
        elif _pruned(told.get(name), tensor):
            weight = Dense(tensor, zeros_wanted=True)
            if weight.plan.sparse:
                opened.stored[name] = FiledWeight(weight.filed_parts(), weight.plan.meta, f"{name} in {filename}")
                del opened.tensors[name]
    if opened.stored:
        kinds = sorted({str(each.meta["kind"]) for each in opened.stored.values()})
        opened.notes.append(
            f"{len(opened.stored):,} of its weights stay as they are stored ({', '.join(kinds)}), and every figure "
            "compares with that, not with the model before it was quantized."
            if "quantized" in kinds
            else f"{len(opened.stored):,} of its weights are pruned, and keep no zeros."
        )


def dequantized_notes(opened: Opened) -> list[str]:
    """Of weights that are integers in the file, and floats by their owner's wish."""
    count = sum(isinstance(tensor, IntegerTensor) for tensor in opened.tensors.values())
    return [
        f"{count} of its weights were dequantized as asked: they are the rounded values, as floats, and nothing that "
        "they are multiplied with is rounded. Every figure compares with these, not with the model before it was "
        "quantized."
    ] * bool(count)


def _of_layer(plan: Activations, path: str, tensor: IntegerTensor, known: bool, filename: str) -> dict[str, Any]:
    """How a layer's inputs are rounded, as a manifest has it. Raises CheckpointRefused for another kind of weights."""
    grid = tensor.encoded().grid
    if not known or grid.bits != WIDEST or grid.group or grid.zero_point is not None or tensor.layout.transposed:
        raise CheckpointRefused(
            f"{path} in {filename} rounds what its weights are multiplied with; Pare does where they have 8 bits, one "
            f"scale for each output and no zero points. {UPLOAD_INSTEAD.capitalize()}, or upload it again and {ASK}, "
            "with nothing rounded"
        )
    told = plan if plan.result is None else plan.model_copy(update={"result_at": path})
    return told.model_dump(exclude_none=True)


def _pruned(told: Any, tensor: LazyTensor) -> bool:
    known = isinstance(told, Mapping) and told.get("pruned") is True and told.get("shape") == list(tensor.shape)
    return known and tensor.dtype.is_floating_point and told.get("kind") in Dense.kinds


def _filed(name: str, tensor: IntegerTensor, filename: str) -> FiledWeight:
    place = f"{name} in {filename}"
    try:
        plan = tensor.encoded().plan
    except MALFORMED as error:
        if is_want_of_memory(error):
            raise
        raise CheckpointRefused(f"{place} holds integers that cannot be read: {error}") from None

    def reader(suffix: str) -> Callable[[], Tensor]:
        return lambda: tensor.encoded().parts()[suffix]

    parts = {part.name: LazyTensor(part.shape, dtype_of(part.dtype), reader(part.name)) for part in plan.parts}
    return FiledWeight(parts, plan.meta, place)


def same_weight(one: IntegerTensor, other: IntegerTensor) -> bool:
    if (one.shape, one.layout) != (other.shape, other.layout):
        return False
    return one.matrix is other.matrix or torch.equal(one.load(), other.load())


def over(held: LazyTensor, change: Callable[[Tensor], Tensor]) -> LazyTensor:
    shape = tuple(change(torch.empty(held.shape, device="meta")).shape)
    return LazyTensor(shape, held.dtype, lambda: change(held.load()))


def plain(values: Tensor) -> Tensor:
    return values


def transposed(values: Tensor) -> Tensor:
    return values.t().contiguous()


def column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1)


def for_rows(value: Tensor, rows: int) -> Tensor:
    return value.reshape(1, 1).expand(rows, 1).contiguous()


def unpacked(packed: Tensor, bits: int) -> Tensor:
    """uint8 (rows, n) -> (rows, n or 2 n): of two numbers in a byte the first is in its lower half."""
    if bits == 8:
        return packed
    return torch.stack((packed & 15, packed >> 4), -1).flatten(1)
