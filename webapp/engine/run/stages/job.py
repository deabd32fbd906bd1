"""What a stage is given: folders to read, a folder to write, and the run that it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from webapp.engine.architectures import architectures
from webapp.engine.data.batches import Batch, ImageBatches, batches
from webapp.engine.data.datasets import Text, fit, open_dataset, without
from webapp.engine.data.images import Images
from webapp.engine.data.preprocessing import Preprocessing, preprocessing_of
from webapp.engine.data.questions import Questions
from webapp.engine.data.tasks import for_task, resolved
from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, DatasetFacts, Task
from webapp.engine.recipe import Recipe
from webapp.engine.techniques.calibration.samples import TechniqueData
from webapp.engine.weights.model import Model

EVALUATE_AT_MOST = {  # chunks of text, or samples
    "text": 20,
    "sentences": 500,
    "arrays": 10_000,
    "labelled-text": 2_000,
    "images": 5_000,
    "multiple-choice": 1_000,
}


class StageInput(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CheckpointGiven(StageInput):
    """`folder` holds the normalised files; `size_bytes` and `digest` are of what was uploaded."""

    folder: Path
    facts: CheckpointFacts
    name: str
    filename: str
    digest: str
    size_bytes: int


class DatasetGiven(StageInput):
    folder: Path
    facts: DatasetFacts
    name: str
    digest: str


class RunGiven(StageInput):
    recipe: Recipe
    exports: tuple[str, ...] = ("safetensors",)
    seed: int = 0
    options: dict[str, Any] = Field(
        default_factory=dict
    )  # {"evaluate_at_most": 20, "preprocessing": {...}, "task": "regression"}


class StageJob(StageInput):
    """`inputs` names the output folders of the stages that this one reads, `inputs_facts` what they returned."""

    stage: str
    run: RunGiven
    checkpoint: CheckpointGiven
    teacher_checkpoint: CheckpointGiven | None = None  # who teaches, where it is not the original
    dataset: DatasetGiven | None = None
    training_dataset: DatasetGiven | None = None
    inputs: dict[str, Path] = Field(default_factory=dict)
    inputs_facts: dict[str, Any] = Field(default_factory=dict)
    output: Path
    scratch: Path | None = None  # lives until the stage is done, restarts and retries included

    @property
    def task(self) -> Task | None:
        """What the run is measured by, and its training lessens the loss of."""
        spec = self.checkpoint.facts.architecture
        data = [given.facts for given in (self.dataset, self.training_dataset) if given is not None]
        told: Task | None = self.run.options.get("task")
        return told or (resolved(spec, *data) if spec else None)

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
        """What techniques may see: the second dataset's training part or the first's, less what evaluates."""
        spec, given = self.spec, self.training_dataset or self.dataset
        if spec is None or given is None or given.facts.training is None:
            return None
        samples = open_dataset(given.folder, given.facts, self.preprocessing(), spec).training()
        if self.training_dataset is not None and self.dataset is not None:
            samples = without(samples, open_dataset(self.dataset.folder, self.dataset.facts).evaluation())
        if isinstance(samples, Questions):
            samples = Text(samples.answered())
        return TechniqueData(samples, spec, self.tokenizer())

    def preprocessing(self) -> Preprocessing | None:
        """How images are prepared; None where no dataset holds any."""
        given = [one.facts for one in (self.dataset, self.training_dataset) if one is not None]
        return preprocessing_of(self.checkpoint.facts.architecture, given, self.run.options.get("preprocessing"))

    def tokenizer(self) -> Any:
        spec = self.checkpoint.facts.architecture
        return architectures()[spec.family].tokenizer(spec, self.checkpoint.folder) if spec else None

    def wiring(self) -> dict[str, Any] | None:
        """What the baseline found of the guess at how the layers are wired; None where nothing was guessed."""
        found: dict[str, Any] | None = self.inputs_facts.get("baseline", {}).get("wiring")
        return found

    def unavailable(self) -> str | None:
        """Why quality cannot be measured, as a sentence; None where it can."""
        if self.checkpoint.facts.architecture is None:
            return f"Accuracy is not available: {self.checkpoint.facts.weights_only_because}"
        if self.dataset is None:
            return "Accuracy is not available: the run has no dataset."
        return None

    def evaluation(self) -> Sequence[Batch]:
        """The batches that every run on this dataset is judged on. Raises DatasetUnfit."""
        spec, dataset = self.spec, self.dataset
        assert spec is not None
        assert dataset is not None
        fit(spec, dataset.facts)
        form = "sentences" if dataset.facts.kind == "text" and spec.task != "causal-lm" else dataset.facts.kind
        most = self.run.options.get("evaluate_at_most", EVALUATE_AT_MOST[form])
        samples = open_dataset(dataset.folder, dataset.facts, self.preprocessing(), spec).evaluation()
        if isinstance(samples, Images):
            return ImageBatches(samples, spec, most)
        return list(batches(samples, spec, self.tokenizer(), limit=most))
