"""The matrices that a calibrated technique works on: a layer's weight, or each of the factors it was split into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from webapp.engine.facts import PLAIN, LayerFacts, Layout
from webapp.engine.lazy import Tensor, nn
from webapp.engine.weights import Dense, Encoded
from webapp.engine.weights.model import Model

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class WeightMatrix:
    """One product with a matrix in the running module. Its `floats` are (out, in) whatever way it is stored."""

    layer: LayerFacts
    path: str  # of the module that multiplies: the layer's own, or that of one of its factors
    side: str  # the factor's name as it is stored; "" for the whole weight
    layout: Layout
    model: Model

    @property
    def groups(self) -> int:
        """Of a convolution, each with outputs and inputs of its own; the experts of a stack."""
        return self.layout.groups

    @property
    def encoded(self) -> Encoded:
        whole = self.model.weights[self.layer.weight]
        return whole.factors[self.side] if self.side else whole

    @property
    def alone(self) -> LayerFacts:
        """What is known of a layer that has this matrix for its weight: the factor's, or that of one expert."""
        layout, shape = self.layout, tuple(self.encoded.shape)
        form = {"transposed": layout.transposed, "groups": layout.groups, "stacked": layout.stacked}
        return self.layer.model_copy(update={"shape": shape, **form})

    def with_values(self, encoded: Encoded) -> WeightMatrix:
        """The matrix with another value, in a model of its own."""
        layer = self.alone
        return WeightMatrix(layer, self.path, "", self.layout, Model({layer.weight: encoded}))

    def some_rows(self, rows: Tensor) -> WeightMatrix:
        """The matrix of these of its outputs (n,) alone, in a model of its own; its channels are in one group."""
        encoded = self.encoded
        values = encoded.decode().movedim(1, 0) if self.layout.transposed else encoded.decode()
        some = Dense(values[rows].contiguous(), zeros_wanted=encoded.plan.pruned)
        layer = self.layer.model_copy(update={"shape": some.shape, "transposed": False, "groups": 1, "stacked": False})
        return WeightMatrix(layer, self.path, "", PLAIN, Model({layer.weight: some}))

    def floats(self) -> Tensor:
        """float32 (out, in), or (out, in / groups * kernel) of a convolution."""
        tensor = self.encoded.decode().float()
        return self.layout.matrix(tensor).contiguous()

    def shaped(self, floats: Tensor) -> Tensor:
        """The inverse of `floats`: back to the stored shape and dtype."""
        return self.layout.weight(floats, self.encoded.shape).to(self.encoded.dtype).contiguous()

    def keep(self, encoded: Encoded) -> None:
        """Puts the compressed form into the model; the module is the block's business."""
        self.model.put(self.layer.weight, encoded, self.side)

    def value(self) -> Tensor:
        """The tensor as the module at `path` holds it."""
        tensor = self.encoded.decode()
        return tensor.t().contiguous() if self.side and self.layout.transposed and tensor.dim() == 2 else tensor


def weight_matrices(model: Model, layers: Iterable[LayerFacts], module: nn.Module) -> list[WeightMatrix]:
    """The matrices of these layers in a module that `skeleton_of` made; layers that are not matrices have none."""
    from webapp.engine.architectures.factored_layers import FactoredModule

    found = []
    for layer in layers:
        if layer.kind not in ("linear", "conv"):
            continue
        part = module.get_submodule(layer.name)
        if isinstance(part, FactoredModule):
            for child, factor in part.runs.items():
                found.append(WeightMatrix(layer, f"{layer.name}.{child}", factor, layer.layout, model))
        else:
            layout = replace(layer.layout, groups=int(getattr(part, "groups", 1)))
            found.append(WeightMatrix(layer, layer.name, "", layout, model))
    return found


def columns_of(part: nn.Module) -> int:
    """How many numbers of the input one row of the matrix is multiplied with."""
    weight = part.weight
    assert isinstance(weight, nn.Parameter)
    if isinstance(part, nn.modules.conv._ConvTransposeNd):
        return weight.numel() // part.out_channels
    if isinstance(part, nn.Linear | nn.modules.conv._ConvNd):
        return weight[0].numel()
    return weight.shape[0]  # GPT-2's Conv1D: (in, out)


def geometry(part: nn.Module) -> tuple[Any, ...]:
    """What besides the input decides which rows the matrix sees: () of a linear layer."""
    if not isinstance(part, nn.modules.conv._ConvNd):
        return ()
    return type(part), part.kernel_size, part.stride, part.padding, part.output_padding, part.dilation, part.groups


def inputs_as_rows(part: nn.Module, x: Tensor, groups: int, mask: Tensor | None) -> Tensor:
    """What the matrix is multiplied with: float32 (rows, groups, columns), without what `mask` (B, T) leaves out.

    Of a convolution the patches, one row for each place of the output.
    """
    if isinstance(part, nn.modules.conv._ConvTransposeNd):
        patches = _patches(_spread(part, x.float()), part.kernel_size, part.dilation, (1,) * len(part.kernel_size))
        places = tuple(range(patches.dim() - len(part.kernel_size), patches.dim()))
        return _rows(patches.flip(places), len(part.kernel_size), groups)  # each input is spread by the whole kernel
    if isinstance(part, nn.modules.conv._ConvNd):
        padding = part._reversed_padding_repeated_twice
        x = nn.functional.pad(x, padding if any(padding) else [0, 0], mode=_mode(part.padding_mode))
        patches = _patches(x.float(), part.kernel_size, part.dilation, part.stride)
        return _rows(patches, len(part.kernel_size), groups)
    if mask is not None and x.dim() > 2 and x.shape[: mask.dim()] == mask.shape:
        x = x[mask.bool()]
    return x.reshape(-1, 1, x.shape[-1]).float()


def gradients_by_place(part: nn.Module, gradient: Tensor, groups: int) -> Tensor:
    """Gradients at the outputs of a matrix as (B, places, groups, outputs)."""
    if isinstance(part, nn.modules.conv._ConvNd):
        gradient = gradient.flatten(2).transpose(1, 2)
    else:
        gradient = (
            gradient.reshape(len(gradient), -1, gradient.shape[-1]) if gradient.dim() > 1 else gradient[None, None]
        )
    return gradient.reshape(*gradient.shape[:2], groups, -1)


def _patches(x: Tensor, kernel: Sizes, dilation: Sizes, stride: Sizes) -> Tensor:
    """(B, C, *places) -> (B, C, *places of the output, *kernel)."""
    for axis, (size, apart, step) in enumerate(zip(kernel, dilation, stride, strict=True), start=2):
        x = x.unfold(axis, (size - 1) * apart + 1, step)[..., ::apart]
    return x


def _rows(patches: Tensor, axes: int, groups: int) -> Tensor:
    """(B, C, *places, *kernel) -> (rows, groups, C / groups * kernel)."""
    batch, channels = patches.shape[:2]
    count = patches.shape[2 : 2 + axes].numel()
    apart = patches.reshape(batch, channels, count, -1).transpose(1, 2)
    return apart.reshape(batch * count, groups, -1)


def _spread(part: nn.modules.conv._ConvTransposeNd, x: Tensor) -> Tensor:
    """The input of a transposed convolution as that of a plain one whose kernel is turned round: zeros between."""
    axes = range(len(part.kernel_size))
    sizes = [(x.shape[2 + axis] - 1) * part.stride[axis] + 1 for axis in axes]
    wide = x.new_zeros((*x.shape[:2], *sizes))
    every: Any = tuple(slice(None, None, step) for step in part.stride)
    wide[(..., *every)] = x
    padding = []
    for axis in reversed(axes):
        side = part.dilation[axis] * (part.kernel_size[axis] - 1) - int(part.padding[axis])
        padding += [side, side + part.output_padding[axis]]
    return nn.functional.pad(wide, padding)


def _mode(padding_mode: str) -> str:
    return "constant" if padding_mode == "zeros" else padding_mode
