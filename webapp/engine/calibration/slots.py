"""The matrices that a calibrated technique works on: a layer's weight, or each of the two factors it was split into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ..encodings import Encoded, Factored
from ..facts import LayerFacts
from ..model import Model


@dataclass(frozen=True)
class Slot:
    """One product with a matrix in the running module. `matrix` is (out, in) whatever way it is stored."""

    layer: LayerFacts
    path: str  # of the module that multiplies: the layer's own, or that of its `left` or `right` factor
    side: Literal["", "left", "right"]  # the factor as it is stored
    transposed: bool  # stored as (in, out)
    groups: int  # of a convolution
    model: Model

    @property
    def encoded(self) -> Encoded:
        whole = self.model.weights[self.layer.weight]
        if not self.side:
            return whole
        assert isinstance(whole, Factored)
        return whole.left if self.side == "left" else whole.right

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
        if not self.side:
            self.model.weights[self.layer.weight] = encoded
            return
        whole = self.model.weights[self.layer.weight]
        assert isinstance(whole, Factored)
        left, right = (encoded, whole.right) if self.side == "left" else (whole.left, encoded)
        self.model.weights[self.layer.weight] = Factored(left, right)

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
        if isinstance(model.weights[layer.weight], Factored):
            turned = layer.transposed
            sides: tuple[Literal["left", "right"], ...] = ("left", "right") if turned else ("right", "left")
            for name, side in zip(("right", "left"), sides, strict=True):
                found.append(Slot(layer, f"{layer.name}.{name}", side, turned, 1, model))
        else:
            found.append(Slot(layer, layer.name, "", layer.transposed, int(getattr(part, "groups", 1)), model))
    return found


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
