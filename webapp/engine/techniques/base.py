"""What a technique declares and does. A file in this folder is a technique; nothing else has to be touched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from webapp.engine.architectures.reshape import Plans, ShapeChange
from webapp.engine.data.batches import Batch
from webapp.engine.data.memory import BatchSizes, ModelMemory, probe_of, samples_of
from webapp.engine.errors import DatasetUnfit
from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, DatasetFacts, Group, LayerFacts
from webapp.engine.importers.gguf.importance import Entry
from webapp.engine.lazy import torch
from webapp.engine.progress import Report, tracked
from webapp.engine.recipe import StepSettings, TechniqueSettings, setting
from webapp.engine.techniques.calibration.gradients import WIDEST
from webapp.engine.techniques.calibration.matrices import WeightMatrix
from webapp.engine.techniques.calibration.samples import TechniqueData, calibrating
from webapp.engine.techniques.calibration.statistics import Covariance
from webapp.engine.weights import Encoded, StoragePlan
from webapp.engine.weights.held import KEPT_BYTES
from webapp.engine.weights.memory import release_freed_memory
from webapp.engine.weights.model import Model

# calibration_if_any: what the run's data has to teach is used, and the step goes on without it too
Need = Literal["calibration", "calibration_if_any", "training", "gradients", "architecture", "teacher"]


MATRICES = frozenset({"linear", "conv", "recurrent", "experts"})  # kinds of layers that multiply


WALKING: frozenset[Need] = frozenset({"calibration", "calibration_if_any", "architecture"})
WAITING_STATES = 6  # of what a block is given: of samples that stand still within it
LARGE_LAYER = 1 << 23  # values: what working on as many leaves free is given back at once
LEFT, NOTHING = "left as it is", "nothing"
LARGE = 0.22  # of the file
MISSED = 0.1  # of what was asked: as far off as a share may be and still count as reached


def calibration_samples() -> Any:
    """The setting of every technique that calibrates: how many samples (texts, chunks of text, images) it looks at."""
    return setting(0, "Calibration samples", "0: as many as suit the task.", unit="samples", ge=0)


class Skip(Exception):
    """This layer stays as it is, and why: a sentence for the receipt."""


@dataclass(frozen=True)
class CutOffer:
    """Channels that may leave: `kept` says how many each group keeps, with these settings and the groups' makers.

    Or so many `blocks` of the row, those that lose least, with these settings and all of their layers. Of the offers of
    one `unit` at most one can be taken.
    """

    unit: str  # "channels of conv1"
    label: str  # "20 % removed"
    settings: Mapping[str, Any]
    kept: Mapping[Group, int] = field(default_factory=dict)
    blocks: int = 0


@dataclass(frozen=True)
class Outcome:
    """What was done to one layer: `asked` beside `done`.

    Not `ok`: a ratio was missed or a way round was taken; `skipped` too: nothing was done to it. Then `note` says why.
    """

    layer: str
    asked: str
    done: str
    ok: bool = True
    skipped: bool = False
    note: str = ""

    @classmethod
    def left(cls, layer: str, asked: str, why: str) -> Outcome:
        """A layer that should have changed and did not."""
        return cls(layer, asked, LEFT, ok=False, skipped=True, note=why)

    @classmethod
    def not_asked(cls, layer: str, why: str) -> Outcome:
        """A layer that the step's settings leave out, though its patterns name it."""
        return cls(layer, NOTHING, LEFT, note=why)


def missed(asked: float, done: float) -> bool:
    """Whether a share is off by more than a tenth of what was asked."""
    return abs(done - asked) > MISSED * asked + 1e-9


@dataclass(frozen=True)
class Context:
    """What a step works with: the layers that it is for, the run's seed, and its line to the outside.

    `data` is there for techniques that need calibration or training data. `scratch` is a folder that lives until the
    stage is done, a restart included. `teacher` reads the original, or the checkpoint that the run names as teacher.
    """

    layers: Sequence[LayerFacts]
    seed: int
    report: Report
    data: TechniqueData | None = None
    scratch: Path | None = None
    teacher: Callable[[], Model] | None = None
    facts: CheckpointFacts | None = None  # of the model as the steps before left it
    files: Path | None = None  # what came with the checkpoint, beside its weights
    importance: dict[str, Entry] = field(default_factory=dict)  # of inputs that the step measured, to be delivered

    def calibration(self, samples: int = 0) -> list[Batch]:
        """Batches that techniques may see. Raises DatasetUnfit where there are none."""
        if self.data is None:
            raise DatasetUnfit("This technique calibrates on data, and the run has no dataset with a training split.")
        return self.data.calibration(samples)


@dataclass(frozen=True)
class AtWork:
    """A step before it is done, for what it needs: the model that it begins with, and what it is for.

    `seen` is the dataset that it may see, None without one; `teacher` is the original's memory, or the teacher's.
    `needs` are the step's, its overrides' too, without what came with the checkpoint.
    """

    model: ModelMemory
    layers: Sequence[LayerFacts]
    settings: StepSettings
    spec: ArchitectureSpec | None
    seen: DatasetFacts | None
    teacher: ModelMemory
    needs: frozenset[Need]

    @property
    def walks(self) -> bool:
        """Whether samples go through the model, or it is looked at as a module."""
        learns = self.seen is not None and self.seen.training is not None
        wanted = WALKING if learns else WALKING - {"calibration_if_any"}
        return self.spec is not None and bool(self.needs & wanted)

    @property
    def largest(self) -> int:
        """Bytes of the floats of the largest of its layers."""
        return 4 * max((layer.size for layer in self.layers), default=0)

    @property
    def covariance(self) -> int:
        """Bytes of a covariance of the inputs of its widest matrix."""
        return 4 * max((_inputs(layer) ** 2 for layer in self.layers if layer.kind in MATRICES), default=0)

    @property
    def calibrating(self) -> BatchSizes | None:
        """The samples that it looks at; a probe where it sees none."""
        if self.spec is None:
            return None
        if self.seen is None or self.seen.training is None:
            return probe_of(self.spec) if self.spec.inputs else None
        return calibrating(self.spec, self.seen, int(getattr(self.settings.own, "samples", 0)))

    @property
    def training(self) -> BatchSizes | None:
        """One batch of those that it learns from."""
        if self.spec is None or self.seen is None:
            return None
        rows = self.settings.own.batch(self.spec)
        return samples_of(self.spec, self.seen, rows, training=True).of(rows, 1)

    def walk(self, models: int = 1) -> int:
        """Of so many twins of the model that go through their blocks with all samples, one block in memory."""
        samples, model = self.calibrating, self.model
        if samples is None:
            return 0
        held = max(model.outside_whole + model.block, models * 2 * model.block) if model.block else models * model.whole
        return (
            held + models * WAITING_STATES * model.states(samples) + models * model.passes(samples.of(samples.rows, 1))
        )

    @property
    def blocks(self) -> int:
        return (
            max(1, round((self.model.floats - self.model.outside_whole) / self.model.block)) if self.model.block else 1
        )

    def backward(self) -> int:
        """Of a pass forward and backward, a part of the model in memory, that learns the gradients' covariances."""
        samples, model = self.calibrating, self.model
        if samples is None:
            return 0
        one = samples.of(samples.rows, 1)
        held = model.outside_whole + model.block if model.block else model.whole
        held += 2 * model.states(samples) + model.passes(one) + model.backward(one) // self.blocks
        return held + 3 * (self._learned_sums(True) // self.blocks)

    def learned(self) -> int:
        """What such a pass keeps on the disk: the states between the blocks, and the gradients' covariances."""
        states = (self.blocks + 1) * self.model.states(self.calibrating) if self.calibrating else 0
        return self._learned_sums(False) + states

    def _learned_sums(self, inputs: bool) -> int:
        """Bytes of the covariances of the gradients at all matrices' outputs, and with `inputs` of what they read."""
        found = 0
        for layer in self.layers:
            if layer.kind in MATRICES:
                rows = layer.layout.rows(layer.shape)
                found += 4 * (rows**2 if rows <= WIDEST else rows) + (4 * _inputs(layer) ** 2 if inputs else 0)
        return found

    def kept(self, file_bytes: int) -> int:
        """What a walk through the blocks keeps on the disk (`KeptBlocks`): the weights that it changed, at most all of
        its file; and what the samples give to the next block, of model and original, the older until the newer is
        there."""
        if not self.walks or self.calibrating is None or not self.model.block:
            return 0
        return file_bytes + 4 * self.model.states(self.calibrating)


def _inputs(layer: LayerFacts) -> int:
    return layer.size // max(layer.layout.rows(layer.shape), 1)


class Technique(ABC):
    """Declared by class attributes; `plan` says what `apply` will do, without values.

    Overrides give some layers of a step other settings: what is about one layer is told that layer's own, and what is
    about the whole step is told all (`StepSettings`).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    family: ClassVar[str] = "Other"  # under which the form offers it: "Pruning", "Low rank", "Quantization", "Training"
    summary: ClassVar[str]  # one sentence: what it does and what it costs
    paper: ClassVar[str]  # URL
    version: ClassVar[int] = 1
    Settings: ClassVar[type[TechniqueSettings]]
    needs: ClassVar[frozenset[Need]] = frozenset()
    layers: ClassVar[frozenset[str]]  # of LayerKind
    counts_zeros: ClassVar[bool] = True  # how many zeros of earlier steps stay is known without the values
    copies: ClassVar[float] = 4.0  # of the floats of a layer, that work on it holds at once
    covariances: ClassVar[float] = 0.0  # copies of the covariance of a layer's inputs, likewise
    rows_apart: ClassVar[bool] = False  # what an option makes of a row of a matrix does not depend on its other rows
    requires: ClassVar[tuple[str, ...]] = ()  # extras, as they are imported: only workers that have them take it

    def needs_for(self, settings: Any) -> frozenset[Need]:
        """What a step with these settings of its own needs; `needs` is what the technique may need at most."""
        return self.needs

    def brought(self, facts: CheckpointFacts, settings: Any) -> frozenset[Need]:
        """What of the needs of a step with these settings of its own came with this checkpoint."""
        return frozenset()

    def lacks(self) -> str | None:
        """What the machine lacks for it, and how that is added: the rest of a sentence that begins elsewhere."""
        return None

    def settled(self, facts: CheckpointFacts, settings: StepSettings) -> StepSettings:
        """The settings once `facts` of the model are known, where a layer's depend on more than its name."""
        return settings

    def works_on(self, layer: LayerFacts, settings: Any) -> bool:
        """Whether a step with these settings is for the layer, where its patterns match it."""
        return layer.kind in self.layers

    def refuses(self, plan: StoragePlan) -> str | None:
        """Why a weight that earlier steps left in this form cannot be taken: the order makes no sense."""
        return None

    def reshape(
        self, facts: CheckpointFacts, layers: Sequence[LayerFacts], settings: StepSettings
    ) -> ShapeChange | None:
        """How the step changes shapes or names, from `facts` of the model as the steps before it leave it.

        None where every tensor keeps its name and shape. Where the values decide, an estimate.
        """
        return None

    @abstractmethod
    def plan(self, layer: LayerFacts, plan: StoragePlan, settings: Any) -> StoragePlan:
        """The form that the layer will have. Raises Skip with the reason."""

    def untouched(
        self, facts: CheckpointFacts, layers: Sequence[LayerFacts], settings: StepSettings
    ) -> Mapping[str, str]:
        """Layers that will stay as they are, by name, with the reason, where that is not theirs alone to say (`plan`).

        `facts` is of the model as the steps before leave it. Raises Skip like `reshape`.
        """
        return {}

    def exact(self, settings: Any) -> bool:
        """Whether `plan` knows a layer's bytes from its settings alone, without the values."""
        return True

    def working_bytes(self, at: AtWork) -> int:
        """The memory that a step takes at most, beside that of an empty process."""
        found = int(self.copies * at.largest + self.covariances * at.covariance) + KEPT_BYTES
        return found + (at.walk() if at.walks else 0)

    def kept_bytes(self, at: AtWork, after: ModelMemory, file_bytes: int) -> int:
        """What it keeps on the disk until it is done, to go on when it was killed; it leaves `after`."""
        return 0

    def removes_alike(
        self, facts: CheckpointFacts, layers: Sequence[LayerFacts], plans: Plans, settings: StepSettings
    ) -> bool:
        """Whether what leaves has as many bytes whatever it is that the values choose."""
        return True

    @abstractmethod
    def apply(self, model: Model, settings: StepSettings, context: Context) -> list[Outcome]:
        """Changes the model's weights and says what was done to each of `context.layers`."""

    def offered(self, facts: CheckpointFacts) -> bool:
        """Whether a budget may choose among the `options` for this checkpoint."""
        return True

    def options(self, layer: LayerFacts, plan: StoragePlan, share: float) -> Iterable[Mapping[str, Any]]:
        """The settings among which a budget may choose for a layer whose weight is in this form; none unless said.

        Each names the same settings; those that are left out have their defaults. What is offered, `trials` can try.
        `share` of the file is the layer: the steps of one that is LARGE are steps of the file, and are finer.
        """
        return ()

    def cuts(self, facts: CheckpointFacts) -> Iterable[CutOffer]:
        """What a budget may cut out of the shapes of a model; nothing unless said."""
        return ()

    def named(self, settings: Any) -> str:
        """What a budget calls one of the `options`: "4 bits, groups of 64"."""
        return self.title

    def trials(
        self, matrix: WeightMatrix, inputs: Covariance | None, choices: Sequence[Any]
    ) -> Iterator[Encoded | None]:
        """What each of these settings would make of a matrix, from it and its inputs alone; None: it stays as it is.

        `inputs` None: nobody saw them. Nothing is kept, and no module runs. It is done for many matrices, so the values
        may be any that err like those of `apply`, in the metric of these inputs: a quick stand-in.
        """
        raise NotImplementedError(f"{self.name} has options, and cannot try them.")


class LayerByLayer(Technique):
    """A technique that treats each layer for itself, without looking at the others."""

    def apply(self, model: Model, settings: StepSettings, context: Context) -> list[Outcome]:
        outcomes = []
        for layer in tracked(context.layers, context.report, self.title + ": {item.name} ({index} of {total})"):
            own, encoded = settings.of(layer), model.weights[layer.weight]
            try:
                with torch.no_grad():
                    changed, outcome = self.compress(encoded, layer, own)
            except Skip as reason:
                outcomes.append(Outcome.left(layer.name, self.asked(layer, own), str(reason)))
                continue
            model.weights[layer.weight] = changed
            outcomes.append(outcome)
            if changed.plan.size >= LARGE_LAYER:
                release_freed_memory()
        release_freed_memory()
        return outcomes

    def trials(
        self, matrix: WeightMatrix, inputs: Covariance | None, choices: Sequence[Any]
    ) -> Iterator[Encoded | None]:
        for settings in choices:
            try:
                yield self.compress(matrix.encoded, matrix.alone, settings)[0]
            except Skip:
                yield None

    @abstractmethod
    def asked(self, layer: LayerFacts, settings: Any) -> str: ...

    @abstractmethod
    def compress(self, encoded: Encoded, layer: LayerFacts, settings: Any) -> tuple[Encoded, Outcome]:
        """The layer in its new form. Raises Skip with the reason."""
