"""The matrices that a calibrated technique works on: a layer's weight, or each of the factors it was split into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..encodings import Composite, Encoded
from ..facts import LayerFacts
from ..model import Model
from ..thin_modules import Thin


@dataclass(frozen=True)
class Slot:
    """One product with a matrix in the running module. `matrix` is (out, in) whatever way it is stored."""

    layer: LayerFacts
    path: str  # of the module that multiplies: the layer's own, or that of one of its factors
    side: str  # the factor's name as it is stored; "" for the whole weight
    transposed: bool  # stored as (in, out)
    groups: int  # of a convolution
    model: Model

    @property
    def encoded(self) -> Encoded:
        whole = self.model.weights[self.layer.weight]
        return whole.factors[self.side] if self.side else whole

    def matrix(self) -> Tensor:
        """float32 (out, in), or (out, in / groups * kernel) of a convolution."""
        tensor = self.encoded.decode().float()
        return tensor.t().contiguous() if self.transposed else tensor.reshape(tensor.shape[0], -1)

    def shaped(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`: back to the stored shape and dtype."""
        stored = matrix.t() if self.transposed else matrix
        return stored.reshape(self.encoded.shape).to(self.encoded.dtype).contiguous()

    def keep(self, encoded: Encoded) -> None:
        """Puts the compressed form into the model; the module is the block's business."""
        whole = self.model.weights[self.layer.weight]
        if isinstance(whole, Composite) and self.side:
            encoded = whole.with_factors(*(whole.factors | {self.side: encoded}).values())
        self.model.weights[self.layer.weight] = encoded

    def value(self) -> Tensor:
        """The tensor as the module at `path` holds it."""
        tensor = self.encoded.decode()
        return tensor.t().contiguous() if self.side and self.transposed else tensor


def slots_of(model: Model, layers: Iterable[LayerFacts], module: nn.Module) -> list[Slot]:
    """The slots of these layers in a module that `skeleton_of` made; layers that are not matrices have none."""
    found = []
    for layer in layers:
        if layer.kind not in ("linear", "conv"):
            continue
        part = module.get_submodule(layer.name)
        if isinstance(part, Thin):
            for child, factor in part.runs:
                found.append(Slot(layer, f"{layer.name}.{child}", factor, part.transposed, 1, model))
        else:
            found.append(Slot(layer, layer.name, "", layer.transposed, int(getattr(part, "groups", 1)), model))
    return found


def columns_of(part: nn.Module) -> int:
    """How many numbers of the input one row of the matrix is multiplied with."""
    weight = part.weight
    assert isinstance(weight, nn.Parameter)
    if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d):
        return weight[0].numel()
    return weight.shape[0]  # GPT-2's Conv1D: (in, out)


def geometry(part: nn.Module) -> tuple[Any, ...]:
    """What besides the input decides which rows the matrix sees: () of a linear layer."""
    if not isinstance(part, nn.Conv1d | nn.Conv2d):
        return ()
    return part.kernel_size, part.stride, part.padding, part.dilation, part.groups


def inputs_as_rows(part: nn.Module, x: Tensor, groups: int, mask: Tensor | None) -> Tensor:
    """What the matrix is multiplied with: float32 (rows, groups, columns), without what `mask` (B, T) leaves out.

    Of a convolution the patches, one row for each place of the output.
    """
    if isinstance(part, nn.Conv1d | nn.Conv2d):
        x, kernel = (x[:, :, None], (1, *part.kernel_size)) if isinstance(part, nn.Conv1d) else (x, part.kernel_size)
        two = isinstance(part, nn.Conv2d)
        stride, dilation = (part.stride, part.dilation) if two else ((1, *part.stride), (1, *part.dilation))
        padding = part._reversed_padding_repeated_twice
        x = nn.functional.pad(x, padding if any(padding) else [0, 0], mode=_mode(part.padding_mode))
        patches = nn.functional.unfold(x.float(), kernel, dilation, 0, stride)  # (B, C * kh * kw, places)
        return patches.transpose(1, 2).reshape(-1, groups, patches.shape[1] // groups)
    if mask is not None and x.dim() > 2 and x.shape[: mask.dim()] == mask.shape:
        x = x[mask.bool()]
    return x.reshape(-1, 1, x.shape[-1]).float()


def _mode(padding_mode: str) -> str:
    return "constant" if padding_mode == "zeros" else padding_mode
