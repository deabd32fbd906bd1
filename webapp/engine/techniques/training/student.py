"""The model in training: a module whose chosen weights move, each in the form that it is stored in."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from webapp.engine.architectures.build import build
from webapp.engine.data.batches import JUDGED_BY_ORIGINAL, Batch, outputs
from webapp.engine.data.targets import target_loss
from webapp.engine.errors import DatasetUnfit
from webapp.engine.facts import ArchitectureSpec, LayerFacts
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.math import losses
from webapp.engine.weights import Dense, Encoded, Quantized
from webapp.engine.weights.model import Model

from .settings import TrainingSettings
from .trained_weights import MovingWeight, Place, ScaledWeight, TrainedWeight, VectorBySize, WholeWeight, places

Forms = Callable[[Place], TrainedWeight | None]


class LoraWeight(MovingWeight):
    """Low-rank adaptation: the weight stays, `up` (out, rank) times `down` (rank, in) is trained beside it and merged.

    Hu et al. 2021, https://arxiv.org/abs/2106.09685, equation 3: W + (alpha / r) B A, with B zero at the start.

    Beside a plain weight they run as two products. Where the weight has zeros to keep or a form that rounds, the module
    computes with the merged weight instead, masked or rounded, because that is what will be stored.
    """

    def __init__(self, place: Place, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__(place)
        weight = place.parameter
        device = weight.device
        outputs, inputs = place.matrix(weight.detach()).shape
        drawn = torch.empty(rank, inputs).uniform_(-1, 1, generator=generator) / math.sqrt(inputs)
        self.down = nn.Parameter(drawn.to(device))
        self.up = nn.Parameter(torch.zeros(outputs, rank, device=device))
        self.factor = alpha / rank
        self.leaves = {f"{place.name}.down": self.down, f"{place.name}.up": self.up}
        self.base = weight.detach()
        self.beside = self.form.plain and self.mask is None
        if self.beside:
            place.part.register_forward_hook(self._beside)

    def _beside(self, part: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        x: Tensor = args[0]
        return out + self.factor * (x @ self.down.t() @ self.up.t())

    def merged(self) -> Tensor:
        """As the module holds it."""
        change = self.place.shaped(self.factor * (self.up @ self.down))
        return self.base + (change if self.mask is None else change * self.mask)

    def value(self) -> Tensor | None:
        return None if self.beside else self.form.rounded(self.merged())

    def encoded(self) -> Encoded:
        with torch.no_grad():
            return self.form.encoded(self.merged())


class Student:
    """`forms` are the weights that are trained; everything else is frozen. Batches come on `device`."""

    def __init__(
        self, model: Model, layers: Sequence[LayerFacts], settings: TrainingSettings, device: torch.device, form: Forms
    ) -> None:
        assert model.architecture is not None
        self.model, self.settings, self.device = model, settings, device
        self.spec: ArchitectureSpec = model.architecture
        self.module = build(model).to(device).requires_grad_(False)
        self.forms = [made for place in places(model, layers, self.module) if (made := form(place)) is not None]
        chosen = {layer.weight for layer in layers} if settings.batch_norm else set()
        self.statistics = {name: norm for name, norm in self._batch_norms() if chosen & set(_buffers(name, norm))}
        self._runner = _runner(self.module, self.spec)

    def __call__(self, batch: Batch) -> Tensor:
        """What `outputs` gives for the module with the weights as they will be stored."""
        values = {f"module.{form.place.name}": value for form in self.forms if (value := form.value()) is not None}
        answer: Tensor = torch.func.functional_call(self._runner, values, (batch,))
        return answer

    def training(self, on: bool) -> None:
        """Between steps and evaluations: dropout and batch norms as the settings say while training, else off."""
        self.module.train(on and self.settings.dropout)
        for _, norm in self._batch_norms():
            norm.train(False)
        for norm in self.statistics.values():
            norm.train(on)

    def leaves(self) -> dict[str, nn.Parameter]:
        return {name: leaf for form in self.forms for name, leaf in form.leaves.items()}

    def state(self) -> dict[str, Tensor]:
        """Everything that training changes, by name, as it is now and not a copy."""
        buffers = (_buffers(name, norm) for name, norm in self.statistics.items())
        return {**self.leaves(), **{name: buffer for found in buffers for name, buffer in found.items()}}

    def restore(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.state().items():
                tensor.copy_(state[name])

    def mask_gradients(self) -> None:
        for form in self.forms:
            form.mask_gradients()

    def write_back(self) -> None:
        """The trained weights into the model, in their forms."""
        for form in self.forms:
            form.place.keep(form.encoded())
        for name, norm in self.statistics.items():
            for buffer, values in _buffers(name, norm).items():
                if buffer in self.model.weights:
                    self.model.weights[buffer] = Dense(values.cpu().to(self.model.weights[buffer].dtype))

    def _batch_norms(self) -> Iterator[tuple[str, nn.modules.batchnorm._BatchNorm]]:
        for name, part in self.module.named_modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                yield name, part


def _runner(module: nn.Module, spec: ArchitectureSpec) -> nn.Module:
    """Lets `functional_call` reach every weight while `outputs` runs the module."""

    class Runner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, batch: Batch) -> Tensor:
            return outputs(self.module, spec, batch)

    return Runner()


def _buffers(name: str, norm: nn.modules.batchnorm._BatchNorm) -> dict[str, Tensor]:
    found = {f"{name}.running_mean": norm.running_mean, f"{name}.running_var": norm.running_var}
    return {buffer: values for buffer, values in found.items() if values is not None}


def whole(settings: TrainingSettings) -> Forms:
    """Every chosen weight is trained itself."""

    def form(place: Place) -> TrainedWeight | None:
        return WholeWeight(place, settings.train_scales) if place.encoded.dtype.is_floating_point else None

    return form


def healed(place: Place) -> TrainedWeight | None:
    """Scales, norms and biases; matrices of floats and codes stay. EfficientQAT, section 3.3,
    https://arxiv.org/abs/2407.11062, which trains the scales alone."""
    encoded = place.encoded
    if isinstance(encoded, Quantized):
        return ScaledWeight(place, encoded)
    vector = len(encoded.shape) <= 1 and encoded.dtype.is_floating_point
    return VectorBySize(place) if vector else None


def adapted(rank: int, alpha: float, seed: int) -> Forms:
    """The matrices of chosen linear layers get a low-rank update; everything else is left as it is."""
    generator = torch.Generator().manual_seed(seed)

    def form(place: Place) -> TrainedWeight | None:
        return LoraWeight(place, rank, alpha, generator) if place.layer.kind == "linear" else None

    return form


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Objective(ABC):
    """`loss` is a mean over the batch's samples. `extra` are weights that are trained along and dropped at the end."""

    title: str = "Loss"  # with the unit, for the chart's axis
    note: str = ""  # what the user should know of it

    def extra(self) -> dict[str, nn.Parameter]:
        return {}

    @abstractmethod
    def loss(self, student: Student, batch: Batch) -> Tensor: ...


class Labels(Objective):
    """Cross-entropy on the dataset's labels, masks, or the next tokens of its text; squared error on its numbers."""

    def __init__(self, spec: ArchitectureSpec) -> None:
        self.title = "Loss (mean squared error)" if spec.task == "regression" else "Loss (cross-entropy, nats)"

    def loss(self, student: Student, batch: Batch) -> Tensor:
        return label_loss(student.spec, student(batch), batch)


def label_loss(spec: ArchitectureSpec, answers: Tensor, batch: Batch) -> Tensor:
    """Nats per sample, token or place, or the squared error of a regression.

    Raises DatasetUnfit where there is nothing to compare with.
    """
    if spec.task == "causal-lm":
        return losses.next_tokens(answers, batch.inputs["input_ids"])
    if batch.targets is None:
        ways = "" if spec.task in JUDGED_BY_ORIGINAL else ", or upload a dataset with labels"
        raise DatasetUnfit(
            f"{spec.title} learns from labels here, and there are none; use distillation, which needs none{ways}."
        )
    return target_loss(answers, batch.targets)
