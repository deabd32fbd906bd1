"""A weight while it is trained: the leaves that the optimizer changes, and what the module computes with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from webapp.engine.facts import PLAIN, LayerFacts, Layout
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.weights import Composite, Encoded, Quantized
from webapp.engine.weights.model import Model

SMALLEST_SIZE = 1e-3  # of a vector that moves by its size


@dataclass(frozen=True)
class Place:
    """A parameter of the running module, and the stored weight that it was read from."""

    name: str  # in the module
    layer: LayerFacts
    part: nn.Module  # that holds it
    encoded: Encoded
    transposed: bool  # the module holds the transpose of what is stored
    keep: Callable[[Encoded], None]  # puts the trained form into the model

    @property
    def parameter(self) -> nn.Parameter:
        found = getattr(self.part, self.name.rpartition(".")[2])
        assert isinstance(found, nn.Parameter)
        return found

    @property
    def layout(self) -> Layout:
        """Of what the module holds."""
        return PLAIN if self.transposed else self.layer.layout

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
        path = layer.weight.rpartition(".")[0]
        part = module.get_submodule(path)
        if isinstance(whole, Composite) and isinstance(part, FactoredModule):
            for child, factor in part.runs.items():
                keep, inner = partial(model.put, layer.weight, factor=factor), part.get_submodule(child)
                yield Place(f"{path}.{child}.weight", layer, inner, whole.factors[factor], part.transposed, keep)
        if isinstance(whole, Composite):
            continue
        name = f"{path}.{part.bias_name}" if isinstance(part, FactoredModule) else layer.weight
        if name in parameters:
            holder = module.get_submodule(name.rpartition(".")[0])
            yield Place(name, layer, holder, whole, False, partial(model.put, layer.weight))


class TrainedWeight(ABC):
    """`leaves` by a name of their own; `value` is what the module computes with, None where that is the leaf itself."""

    place: Place
    leaves: dict[str, nn.Parameter]

    @abstractmethod
    def value(self) -> Tensor | None: ...

    def mask_gradients(self) -> None:  # noqa: B027 (some keep zeros in another way)
        """Called after each backward pass: what was pruned has no gradient, so neither optimizer moves it."""

    @abstractmethod
    def encoded(self) -> Encoded: ...


class MovingWeight(TrainedWeight):
    """The floats themselves move, in the form that they are stored in."""

    def __init__(self, place: Place, train_scales: bool = False) -> None:
        self.place = place
        self.form = place.encoded.in_training(place.transposed, place.parameter.device, train_scales)
        self.mask = place.parameter.detach() != 0 if place.encoded.plan.pruned else None  # what was pruned stays zero
        self.leaves = {}


class WholeWeight(MovingWeight):
    """The module's own parameter is the leaf."""

    def __init__(self, place: Place, train_scales: bool) -> None:
        super().__init__(place, train_scales)
        self.leaf = place.parameter
        self.leaf.data = self.leaf.data.clone()  # what the model holds is not trained in place
        self.leaf.requires_grad = True
        self.leaves = {place.name: self.leaf}
        self.leaves |= {f"{place.name}{suffix}": leaf for suffix, leaf in self.form.leaves.items()}

    def value(self) -> Tensor | None:
        return None if self.form.plain else self.form.rounded(self.leaf)

    def mask_gradients(self) -> None:
        if self.mask is not None and self.leaf.grad is not None:
            self.leaf.grad *= self.mask

    def encoded(self) -> Encoded:
        return self.form.encoded(self.leaf.detach())


class VectorBySize(MovingWeight):
    """A norm or a bias, moved in units of its own root mean square, so that the rate of scales suits it.

    The relative step size of Shazeer & Stern 2018, section 8, https://arxiv.org/abs/1804.04235: norms of one model lie
    between 0.02 and 2.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.start = place.parameter.detach()
        self.unit = self.start.square().mean().sqrt().clamp(min=SMALLEST_SIZE)
        self.steps = nn.Parameter(torch.zeros_like(self.start))
        self.leaves = {f"{place.name}.steps": self.steps}

    def mask_gradients(self) -> None:
        if self.mask is not None and self.steps.grad is not None:
            self.steps.grad *= self.mask

    def _moved(self) -> Tensor:
        return self.start + self.unit * self.steps

    def value(self) -> Tensor:
        return self.form.rounded(self._moved())

    def encoded(self) -> Encoded:
        return self.form.encoded(self._moved().detach())


class ScaledWeight(TrainedWeight):
    """Of a quantized weight the scales move, and its codes stay."""

    def __init__(self, place: Place, stored: Quantized) -> None:
        self.place = place
        self.form = stored.scales_in_training(place.transposed, place.parameter.device)
        place.parameter.data = self.form.values  # one memory for the module's values and for what is decoded
        self.leaves = {f"{place.name}{suffix}": leaf for suffix, leaf in self.form.leaves.items()}

    def value(self) -> Tensor:
        return self.form.decoded()

    def encoded(self) -> Encoded:
        return self.form.kept()
