"""A weight while it is trained: the leaves that the optimizer changes, and how they become the stored form again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from webapp.engine.facts import PLAIN, LayerFacts, Layout
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.math import quantizers, straight_through
from webapp.engine.math.quantizers import Grid
from webapp.engine.weights import Composite, Dense, Encoded, Quantized
from webapp.engine.weights.model import Model


@dataclass(frozen=True)
class Place:
    """A parameter of the running module, and the stored weight that it was read from."""

    name: str  # in the module
    layer: LayerFacts
    part: nn.Module  # that holds it
    encoded: Encoded
    turned: bool  # the module holds the transpose of what is stored
    keep: Callable[[Encoded], None]  # puts the trained form into the model

    @property
    def parameter(self) -> nn.Parameter:
        found = getattr(self.part, self.name.rpartition(".")[2])
        assert isinstance(found, nn.Parameter)
        return found

    @property
    def layout(self) -> Layout:
        """Of what the module holds."""
        return PLAIN if self.turned else self.layer.layout

    def matrix(self, values: Tensor) -> Tensor:
        """What the module holds, as (out, in) or (out, in * kernel)."""
        return self.layout.matrix(values)

    def shaped(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`."""
        return self.layout.weight(matrix, tuple(self.parameter.shape))


def places(model: Model, layers: Iterable[LayerFacts], module: nn.Module) -> Iterator[Place]:
    """The parameters of these layers in a module that `build` made; what is no parameter has none."""
    from webapp.engine.architectures.factored_layers import FactoredModule

    parameters = dict(module.named_parameters(remove_duplicate=False))
    for layer in layers:
        whole = model.weights[layer.weight]
        path, _, last = layer.weight.rpartition(".")
        part = module.get_submodule(path)
        if isinstance(part, FactoredModule) and last == "weight":
            for child, factor in part.runs:
                keep, inner = partial(_keep, model, layer, factor), part.get_submodule(child)
                yield Place(f"{path}.{child}.weight", layer, inner, whole.factors[factor], part.transposed, keep)
            continue
        name = f"{path}.{part.bias_name}" if isinstance(part, FactoredModule) else layer.weight
        if name in parameters:
            holder = module.get_submodule(name.rpartition(".")[0])
            yield Place(name, layer, holder, whole, False, partial(_keep, model, layer, ""))


def _keep(model: Model, layer: LayerFacts, factor: str, encoded: Encoded) -> None:
    whole = model.weights[layer.weight]
    if isinstance(whole, Composite) and factor:
        encoded = whole.with_factors(*(whole.factors | {factor: encoded}).values())
    model.weights[layer.weight] = encoded


class TrainedWeight(ABC):
    """`leaves` by a name of their own; `value` is what the module computes with, None where that is the leaf itself."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.leaves: dict[str, nn.Parameter] = {}

    def value(self) -> Tensor | None:
        return None

    def mask_gradients(self) -> None:
        """Called after each backward pass: what was pruned has no gradient, so neither optimizer moves it."""
        return None

    @abstractmethod
    def encoded(self) -> Encoded: ...


class DenseForm(TrainedWeight):
    """The module's own parameter is the leaf; zeros that a step put there stay."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        leaf = place.parameter
        leaf.data = leaf.data.clone()  # what the model holds is not trained in place
        leaf.requires_grad = True
        self.leaves = {place.name: leaf}
        self.mask = leaf.detach() != 0 if place.encoded.plan.pruned else None

    def mask_gradients(self) -> None:
        leaf = self.leaves[self.place.name]
        if self.mask is not None and leaf.grad is not None:
            leaf.grad *= self.mask

    def encoded(self) -> Encoded:
        return dense(self.place, self.leaves[self.place.name].detach())


class QuantizedForm(TrainedWeight):
    """Floats beside the grid: the module computes with what they round to. Scales are trained by their logarithm."""

    def __init__(self, place: Place, train_scales: bool) -> None:
        super().__init__(place)
        assert isinstance(place.encoded, Quantized)
        self.stored = stored = place.encoded
        device = place.parameter.device
        shadow = place.matrix(place.parameter.detach()).contiguous()  # `value` stands in for what was decoded
        self.shadow = nn.Parameter(shadow)
        self.grid = on_device(stored.grid, device)
        self.scale = self.grid.scale.float()
        self.log_scale = nn.Parameter(torch.zeros_like(self.scale), requires_grad=train_scales)
        self.leaves = {place.name: self.shadow}
        if train_scales:
            self.leaves[f"{place.name}.log_scale"] = self.log_scale
        self.mask = shadow != 0 if stored.plan.pruned else None

    def scales(self) -> Tensor:
        """(rows, groups) float32, as the file will hold them."""
        dtype, size = self.grid.scale.dtype, self.scale.abs() * self.log_scale.exp()
        if dtype == torch.float16:
            size = size.clamp(quantizers.SMALLEST_HALF, quantizers.LARGEST_HALF)
        return straight_through.as_stored(size * self.scale.sign(), dtype)

    def value(self) -> Tensor:
        return self.place.shaped(self.rounded(self.shadow))

    def rounded(self, matrix: Tensor) -> Tensor:
        return straight_through.fake_quantize(matrix, self.grid, self.scales())

    def mask_gradients(self) -> None:
        if self.mask is not None and self.shadow.grad is not None:
            self.shadow.grad *= self.mask

    def encoded(self) -> Encoded:
        return self.on_grid(self.shadow.detach())

    def on_grid(self, matrix: Tensor) -> Encoded:
        old = self.stored
        grid = replace(old.grid, scale=self.scales().detach().cpu().to(old.grid.scale.dtype))
        codes = quantizers.quantize(matrix.cpu(), grid)
        return Quantized(codes, grid, old.shape, old.dtype, old.layout, old.zeros_wanted)


def on_device(grid: Grid, device: torch.device) -> Grid:
    zero_point, levels = (None if part is None else part.to(device) for part in (grid.zero_point, grid.levels))
    return replace(grid, scale=grid.scale.to(device), zero_point=zero_point, levels=levels)


def dense(place: Place, values: Tensor) -> Dense:
    """Values as the module holds them, in the stored layout and dtype."""
    stored = values.t() if place.turned else values
    kept = stored.detach().cpu().to(place.encoded.dtype).contiguous()
    return Dense(kept, zeros_wanted=place.encoded.plan.pruned)
