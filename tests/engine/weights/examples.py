"""A small weight of every storage form: what the contract of the forms, and readers of their files, are tried on."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from webapp.engine.facts import PLAIN, Layout
from webapp.engine.math.grids import QuantizationScheme
from webapp.engine.weights import Compensated, Dense, Encoded, Factored, FactoredConv, GgmlBlocks, Pivoted, Quantized

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
WIDTH = 32
Maker = Callable[[torch.dtype], Encoded]


def values(*shape, zeros=0.0):
    """Seeded, of a size at which a layer neither swells nor fades."""
    drawn = torch.Generator().manual_seed(prod(shape))
    made = torch.randn(shape, generator=drawn) * (2 / prod(shape[1:])) ** 0.5
    return made * (torch.rand(shape, generator=drawn) >= zeros)


def dense(*shape, zeros=0.0) -> Maker:
    return lambda dtype: Dense(values(*shape, zeros=zeros).to(dtype), zeros_wanted=bool(zeros))


def quantized(*shape, bits=8, group=0, layout=PLAIN, zeros=0.0, **more) -> Maker:
    scheme = QuantizationScheme(bits, group, **more)
    return lambda dtype: Quantized.nearest(values(*shape, zeros=zeros).to(dtype), scheme, layout, bool(zeros))


def blocks(type, *shape, layout=PLAIN) -> Maker:
    return lambda dtype: GgmlBlocks.nearest(values(*shape).to(dtype), type, layout)


def composite(form: Callable[..., Encoded], *factors: Maker, **more: Any) -> Maker:
    return lambda dtype: form(*(factor(dtype) for factor in factors), **more)


def pivots(rows, count):
    chosen = torch.zeros(rows, dtype=torch.bool)
    chosen[torch.randperm(rows, generator=torch.Generator().manual_seed(rows))[:count]] = True
    return chosen


W, RANK = WIDTH, 8
MATRICES: dict[str, Maker] = {  # each (32, 32): layers of one chain
    "dense": dense(W, W),
    "pruned": dense(W, W, zeros=0.6),
    "8 bits": quantized(W, W),
    "4 bits in groups": quantized(W, W, bits=4, group=16),
    "4 bits in odd groups": quantized(W, W, bits=4, group=10),
    "4 bits, zero points": quantized(W, W, bits=4, symmetric=False),
    "5 bits": quantized(W, W, bits=5),
    "3 bits in groups, zero points": quantized(W, W, bits=3, group=10, symmetric=False),
    "2 bits": quantized(W, W, bits=2, search=True),
    "NF4": quantized(W, W, bits=4, group=16, numbers="normal"),
    "codebook": quantized(W, W, bits=3, group=16, numbers="fitted"),
    "pruned, 8 bits": quantized(W, W, zeros=0.6),
    "pruned, 4 bits, zero points": quantized(W, W, bits=4, group=16, symmetric=False, zeros=0.6),
    **{f"{type} of llama.cpp's": blocks(type, W, W) for type in ("Q8_0", "Q5_1", "Q4_0", "IQ4_NL", "MXFP4")},
    "factors": composite(Factored, dense(W, RANK), dense(RANK, W)),
    "pruned factors in 8 bits": composite(Factored, quantized(W, RANK, zeros=0.6), quantized(RANK, W, zeros=0.6)),
    "pivots": composite(Pivoted, dense(RANK, W), dense(W - RANK, RANK), pivots=pivots(W, RANK)),
    "pivots in 4 bits": composite(
        Pivoted, quantized(RANK, W, bits=4), quantized(W - RANK, RANK, bits=4), pivots=pivots(W, RANK)
    ),
    "3 bits and factors": composite(
        Compensated, quantized(W, W, bits=3, group=16), quantized(4, W, bits=4), quantized(W, 4, bits=4)
    ),
}


@dataclass(frozen=True)
class Shaped:
    """A weight that is no plain matrix; `layer` makes one that it is the weight of."""

    make: Maker
    layer: Callable[..., nn.Module] | None = None


def conv1d(outputs, inputs):
    """GPT-2's layer, whose weight is (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return Conv1D(outputs, inputs)


def conv(*sizes, kind=nn.Conv2d):
    return lambda **geometry: kind(*sizes, **geometry)


T = {"transposed": True}
SHAPES: dict[str, Shaped] = {
    "a vector": Shaped(dense(7)),
    "kernels in 8 bits": Shaped(quantized(6, 4, 3, 3)),
    "grouped kernels in 4 bits": Shaped(quantized(6, 2, 3, 3, bits=4, layout=Layout(False, 2))),
    "transposed kernels in 4 bits": Shaped(quantized(7, 5, 3, bits=4, group=2, layout=Layout(True))),
    "grouped transposed kernels in 4 bits": Shaped(quantized(6, 5, 3, 2, bits=4, group=2, layout=Layout(True, 2))),
    "experts in 4 bits": Shaped(quantized(3, 5, 4, bits=4, group=2, layout=Layout(False, 3, True))),
    "experts with inputs first": Shaped(quantized(3, 5, 4, bits=4, group=2, layout=Layout(True, 3, True))),
    "kernels in llama.cpp's blocks": Shaped(blocks("Q5_0", 6, 8, 4, 4)),
    "K-quants with inputs first": Shaped(blocks("Q4_K", 256, 5, layout=Layout(True))),
    "experts in llama.cpp's blocks": Shaped(blocks("Q4_0", 3, 5, 32, layout=Layout(False, 3, True))),
    "experts in llama.cpp's blocks, inputs first": Shaped(blocks("Q3_K", 3, 256, 5, layout=Layout(True, 3, True))),
    "transposed factors": Shaped(composite(Factored, dense(7, 2), dense(2, 5)), lambda: conv1d(5, 7)),
    "transposed factors in 4 bits": Shaped(
        composite(Factored, quantized(7, 2, bits=4, layout=Layout(True)), quantized(2, 5, bits=4, layout=Layout(True))),
        lambda: conv1d(5, 7),
    ),
    "pivoted columns": Shaped(
        composite(Pivoted, dense(7, 2), dense(2, 3), pivots=pivots(5, 2), **T), lambda: conv1d(5, 7)
    ),
    "2 bits and factors, inputs first": Shaped(
        composite(
            Compensated,
            *(quantized(*shape, bits=bits, layout=Layout(True)) for *shape, bits in ((7, 5, 2), (7, 2, 4), (2, 5, 4))),
            **T,
        ),
        lambda: conv1d(5, 7),
    ),
    "kernels in 3 bits and factors": Shaped(
        composite(Compensated, quantized(6, 4, 3, 3, bits=3), quantized(2, 4, 3, 3, bits=4), quantized(6, 2, 1, 1)),
        conv(4, 6, 3),
    ),
    "transposed kernels in 3 bits and factors": Shaped(
        composite(
            Compensated,
            *(quantized(*shape, bits=3, layout=Layout(True)) for shape in ((4, 5, 3), (4, 2, 3), (2, 5, 1))),
            **T,
        ),
        conv(4, 5, 3, kind=nn.ConvTranspose1d),
    ),
    "Tucker": Shaped(composite(FactoredConv, dense(2, 4, 1, 1), dense(3, 2, 3, 3), dense(6, 3, 1, 1)), conv(4, 6, 3)),
    "Tucker in 8 bits": Shaped(
        composite(FactoredConv, quantized(2, 4, 1, 1), quantized(3, 2, 3, 3), quantized(6, 3, 1, 1)), conv(4, 6, 3)
    ),
    "Tucker of one axis": Shaped(
        composite(FactoredConv, dense(2, 4, 1), dense(3, 2, 5), dense(6, 3, 1)),
        conv(4, 6, 5, kind=nn.Conv1d),
    ),
    "spatial": Shaped(composite(FactoredConv, dense(2, 4, 3, 1), dense(6, 2, 1, 3)), conv(4, 6, 3)),
    "pivoted filters": Shaped(
        composite(Pivoted, dense(2, 4, 3, 3), dense(4, 2, 1, 1), pivots=pivots(6, 2)), conv(4, 6, 3)
    ),
    "transposed Tucker": Shaped(
        composite(FactoredConv, dense(4, 2, 1, 1), dense(2, 3, 3, 5), dense(3, 6, 1, 1), **T),
        conv(4, 6, (3, 5), kind=nn.ConvTranspose2d),
    ),
    "pivoted transposed filters": Shaped(
        composite(Pivoted, dense(4, 2, 3), dense(2, 3, 1), pivots=pivots(5, 2), **T),
        conv(4, 5, 3, kind=nn.ConvTranspose1d),
    ),
}
EXAMPLES: dict[str, Maker] = MATRICES | {name: shaped.make for name, shaped in SHAPES.items()}
