"""What a profile knows, as plain data that travels as JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from webapp.engine.facts import BY_NUMBERS, ArchitectureSpec, Facts, LayerKind, Task

LossUnit = Literal["nats", "cosine distance", "squared error"]

KEPT = "Kept"  # the family of the option that leaves a layer as it is


def unit_of(spec: ArchitectureSpec) -> LossUnit:
    if spec.task in BY_NUMBERS:
        return "squared error"
    return "cosine distance" if spec.task == "embedding" else "nats"


class OptionStep(Facts):
    """A technique with whole settings, for the layers of an option."""

    technique: str
    settings: dict[str, Any] = Field(default_factory=dict)


class Option(Facts):
    """What may be done to a layer; of the steps, in their order, the first sees the original weight.

    `loss` is half the quadratic form of what they change, before any fit: a prediction that compares with others of
    its family.
    """

    label: str  # "4 bits, groups of 64"
    family: str  # of the technique that decides the loss: "Quantization", "Pruning", "Low rank"; KEPT
    steps: tuple[OptionStep, ...] = ()
    bytes: int  # as Pare's file stores it
    loss: float
    kind: str = "dense"  # the form in which it is stored: "dense", "quantized", "factored", ...


class LayerOptions(Facts):
    """One choice to make: for a layer, or for several that are treated alike (all vectors)."""

    name: str
    layers: tuple[str, ...]  # names as recipes' patterns match them
    kind: LayerKind
    shape: tuple[int, ...] = ()  # of one layer
    params: int
    options: tuple[Option, ...]  # the first leaves it as it is, at no loss

    @property
    def unreached(self) -> bool:
        """Whether no sample came through it, so that nothing that is done to it costs anything."""
        return len(self.options) > 1 and not any(option.loss for option in self.options)


class Cut(Facts):
    """Channels or neurons that leave, and with them a share of every layer that they run through."""

    unit: str  # at most one of a unit's cuts can be chosen: "channels of conv1"
    label: str  # "20 % removed"
    family: str
    step: OptionStep
    layers: tuple[str, ...]  # that the step is for
    loss: float


class Measurement(Facts):
    """A recipe whose loss was measured: by the profile itself on calibration samples, or by a run."""

    predicted: dict[str, float]  # sum of the options' losses, by family
    loss: float
    evaluated: float | None = None  # of one that the profile measured: its loss on samples that runs are judged by
    points: float | None = None  # by how much the metric with labels got worse: accuracy 0.01 is one point
    size_bytes: int
    run_id: str | None = None  # None: on calibration samples


class ProfileFacts(Facts):
    """What `loss` is: nats of KL divergence to the original for each sample or token, cosine distance of embeddings,
    else the squared error over the squared answer."""

    unit: LossUnit
    task: Task | None = None
    samples: int  # rows, images, texts that it saw
    tokens: int | None = None
    layers: tuple[LayerOptions, ...]
    cuts: tuple[Cut, ...] = ()
    measured: tuple[Measurement, ...] = ()
    seconds: float = 0.0
