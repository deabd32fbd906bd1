"""What a stage is given: folders to read, a folder to write, and the run that it belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, Field

from webapp.engine.architectures import architectures
from webapp.engine.data.batches import Batch, ImageBatches, batches
from webapp.engine.data.datasets import Text, fit, open_dataset, without
from webapp.engine.data.images import Images
from webapp.engine.data.preprocessing import Preprocessing, preprocessing_of
from webapp.engine.data.questions import Questions
from webapp.engine.data.tasks import for_task, resolved
from webapp.engine.errors import DatasetUnfit
from webapp.engine.exporters import with_always
from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, DatasetFacts, Task
from webapp.engine.recipe import Recipe
from webapp.engine.run import latency
from webapp.engine.techniques.calibration.samples import TechniqueData
from webapp.engine.weights.model import Model

if TYPE_CHECKING:
    from .base import RunStage

EVALUATE_AT_MOST = {  # chunks of text, or samples
    "text": 20,
    "sentences": 500,
    "arrays": 10_000,
    "labelled-text": 2_000,
    "images": 5_000,
    "multiple-choice": 1_000,
}


def evaluated_as(dataset: DatasetFacts, spec: ArchitectureSpec) -> str:
    """The entry of EVALUATE_AT_MOST."""
    return "sentences" if dataset.kind == "text" and spec.task != "causal-lm" else dataset.kind


class StageInput(BaseModel, extra="forbid"):
    """A part of a job; unknown keys are refused."""


class DatasetRecord(StageInput):
    """`name` and `digest` are of what was uploaded."""

    name: str
    digest: str
    facts: DatasetFacts


class CheckpointRecord(StageInput):
    """`size_bytes` and `digest` are of what was uploaded; `origin` is its name and commit on a hub."""

    name: str
    filename: str
    digest: str
    size_bytes: int
    facts: CheckpointFacts
    origin: str | None = None


class DatasetGiven(DatasetRecord):
    folder: Path


class CheckpointGiven(CheckpointRecord):
    folder: Path  # of the normalised files


class RunSources(StageInput):
    """What a run begins from, as its receipt names it. No teacher: the original teaches."""

    checkpoint: CheckpointRecord
    teacher_checkpoint: CheckpointRecord | None = None
    dataset: DatasetRecord | None = None
    training_dataset: DatasetRecord | None = None


class SourcesGiven(RunSources):
    """The same, laid out in folders."""

    checkpoint: CheckpointGiven
    teacher_checkpoint: CheckpointGiven | None = None
    dataset: DatasetGiven | None = None
    training_dataset: DatasetGiven | None = None


class DataGiven(StageInput):
    """How a run or a profile reads its data, and by what it measures."""

    seed: int = 0
    preprocessing: dict[str, Any] | None = None
    task: Task | None = None
    evaluate_at_most: int | None = None  # chunks of text, or samples; None: EVALUATE_AT_MOST


class PromptSet(StageInput):
    """Prompts of a person that both models answer, with at most so many tokens each."""

    texts: tuple[str, ...]
    max_tokens: int
    chat: bool = False  # each is what a user says, in the template of the model's tokenizer

    @property
    def row(self) -> dict[str, Any]:
        """As a run keeps it: what is as ever is left out, so that sets keep their names."""
        return self.model_dump(mode="json", exclude_defaults=True)


class RunGiven(DataGiven):
    """What a run is asked to do. `exports` has the formats that every run writes, whether they are named or not."""

    recipe: Recipe
    exports: Annotated[tuple[str, ...], AfterValidator(lambda asked: tuple(with_always(asked)))] = Field(
        (), validate_default=True
    )
    blame: tuple[str, ...] | None = None  # layers to give back one by one; (): those that moved most; None: not asked
    prompts: tuple[PromptSet, ...] = ()


class StageOutput(StageInput):
    """What an earlier stage left: its files, and the facts that it returned."""

    folder: Path
    facts: dict[str, Any]


class ModelJob(SourcesGiven):
    """What a stage or a profile works with."""

    run: DataGiven
    output: Path
    scratch: Path | None = None  # lives until the work is done, restarts and retries included

    @property
    def task(self) -> Task | None:
        """What the run is measured by, and its training lessens the loss of."""
        spec = self.checkpoint.facts.architecture
        data = [given.facts for given in (self.dataset, self.training_dataset) if given is not None]
        return self.run.task or (resolved(spec, *data) if spec else None)

    @property
    def spec(self) -> ArchitectureSpec | None:
        """The architecture, for this task; the files keep the one that the checkpoint has."""
        found = self.checkpoint.facts.architecture
        return for_task(found, self.task) if found else None

    def original(self) -> Model:
        return Model.of_checkpoint(self.checkpoint.folder, self.checkpoint.facts)

    def teacher(self) -> Model:
        """The original, unless the run names another checkpoint; one whose task is not told is for the run's."""
        given = self.teacher_checkpoint or self.checkpoint
        found = Model.of_checkpoint(given.folder, given.facts)
        if found.architecture is not None and (given is self.checkpoint or found.architecture.task is None):
            found.architecture = for_task(found.architecture, self.task)
        return found

    def technique_data(self) -> TechniqueData | None:
        """What techniques may see: the second dataset's training split or the first's, less what evaluates."""
        spec, given = self.spec, self.training_dataset or self.dataset
        if spec is None or given is None or given.facts.training is None:
            return None
        samples = open_dataset(given.folder, given.facts, self.preprocessing(), spec).training()
        if self.training_dataset is not None and self.dataset is not None:
            samples = without(samples, open_dataset(self.dataset.folder, self.dataset.facts).evaluation())
            if not isinstance(samples, Text) and not len(samples):
                raise DatasetUnfit(
                    f"Every sample of {self.training_dataset.name} is among those of {self.dataset.name} that "
                    "evaluate, so none is left to learn from; choose another second dataset.",
                    "training_dataset_id",
                )
        if isinstance(samples, Questions):
            samples = Text(samples.answered())
        return TechniqueData(samples, spec, self.tokenizer())

    def preprocessing(self) -> Preprocessing | None:
        """How images are prepared; None where no dataset holds any."""
        given = [one.facts for one in (self.dataset, self.training_dataset) if one is not None]
        return preprocessing_of(self.checkpoint.facts.architecture, given, self.run.preprocessing)

    def tokenizer(self) -> Any:
        spec = self.checkpoint.facts.architecture
        return architectures()[spec.family].tokenizer(spec, self.checkpoint.folder) if spec else None

    def unavailable(self) -> str | None:
        """Why quality cannot be measured, as a sentence; None where it can."""
        if self.checkpoint.facts.architecture is None:
            return f"Accuracy is not available: {self.checkpoint.facts.weights_only_because}"
        if self.dataset is None:
            return "Accuracy is not available: the run has no dataset."
        return None

    def evaluation(self, share: float = 1.0) -> Sequence[Batch]:
        """The batches that every run on this dataset is judged on, or a `share` of them. Raises DatasetUnfit."""
        spec, dataset = self.spec, self.dataset
        assert spec is not None
        assert dataset is not None
        fit(spec, dataset.facts)
        most = math.ceil(share * (self.run.evaluate_at_most or EVALUATE_AT_MOST[evaluated_as(dataset.facts, spec)]))
        samples = open_dataset(dataset.folder, dataset.facts, self.preprocessing(), spec).evaluation()
        if isinstance(samples, Images):
            return ImageBatches(samples, spec, most)
        return list(batches(samples, spec, self.tokenizer(), limit=most))


class StageJob(ModelJob):
    """All that one stage works with; `inputs` by the names of the stages, those that are there."""

    stage: str
    run: RunGiven
    inputs: dict[str, StageOutput] = Field(default_factory=dict)
    timing_seconds: float = latency.SECONDS

    @classmethod
    def of(
        cls, stage: RunStage, sources: SourcesGiven, inputs: dict[str, StageOutput], output: Path, scratch: Path | None
    ) -> Self:
        return cls(stage=stage.name, run=stage.asked, **dict(sources), inputs=inputs, output=output, scratch=scratch)

    def wiring(self) -> dict[str, Any] | None:
        """What the baseline found of the guess at how the layers are wired; None where nothing was guessed."""
        there = self.inputs.get("baseline")
        return there.facts.get("wiring") if there else None
