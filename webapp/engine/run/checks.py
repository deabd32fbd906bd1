"""Whether what is asked for can be done, from facts alone: page, API and command line refuse by the same check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.engine.data.batches import JUDGED_BY_ORIGINAL
from webapp.engine.data.datasets import fit
from webapp.engine.data.preprocessing import Preprocessing, preprocessing_of
from webapp.engine.data.tasks import for_task, resolved
from webapp.engine.errors import DatasetUnfit, ProfileUnfit, RecipeInvalid, some
from webapp.engine.exporters import check_formats
from webapp.engine.facts import CheckpointFacts, DatasetFacts, Task
from webapp.engine.recipe import Recipe
from webapp.engine.techniques import needs_of, techniques
from webapp.engine.techniques.training.teaching import check_alike

from .predict import kinds_of, result_of
from .wiring import advice, unconfirmable


@dataclass(frozen=True)
class NamedDataset:
    name: str
    facts: DatasetFacts


def check_run(
    facts: CheckpointFacts,
    recipe: Recipe,
    exports: Sequence[str],
    dataset: NamedDataset | None = None,
    training: NamedDataset | None = None,
    teacher: CheckpointFacts | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> Preprocessing | None:
    """How images are prepared, whole; None where no dataset holds any.

    `dataset` evaluates, `training` calibrates and trains in place of the dataset's own training split, `teacher`
    teaches in place of the original. Raises RecipeInvalid, ExportUnfit, DatasetUnfit or PreprocessingInvalid with the
    field.
    """
    check_formats(facts, exports, kinds_of(result_of(facts, recipe).plans))
    check_datasets(facts, dataset, training)
    parts = [given.facts for given in (dataset, training) if given is not None]
    for index, message in without_data(facts, recipe, dataset, training):
        raise RecipeInvalid(message, f"steps.{index}.technique")
    prepared = preprocessing_of(facts.architecture, parts, preprocessing)
    if teacher is not None:
        check_teacher(facts, teacher, recipe)
    return prepared


def check_profile(
    facts: CheckpointFacts,
    dataset: NamedDataset | None,
    training: NamedDataset | None,
    preprocessing: Mapping[str, Any] | None = None,
) -> Preprocessing | None:
    """How images are prepared, whole; None where no dataset holds any.

    `training` is seen in place of the dataset's own training split. Raises ProfileUnfit, DatasetUnfit or
    PreprocessingInvalid with the field.
    """
    spec, seen = facts.architecture, training or dataset
    if spec is None:
        because = (facts.weights_only_because or "unknown").rstrip(".")
        raise ProfileUnfit(
            f"This checkpoint is weights only ({because}), so it cannot be run, and nothing tells what its layers are "
            "worth.",
            "checkpoint_id",
        )
    factored = [tensor.name for tensor in facts.tensors if tensor.stored and tensor.stored.factored]
    if factored:
        raise ProfileUnfit(
            f"{some(factored, 1)} came as low-rank factors, and what may be done to these is not profiled. Build a "
            "recipe by hand, or profile the checkpoint that it was made from.",
            "checkpoint_id",
        )
    if seen is None:
        raise ProfileUnfit(
            "A profile is made on samples: choose a dataset. Inputs without labels will do.", "dataset_id"
        )
    if seen.facts.training is None:
        raise ProfileUnfit(
            f"{seen.name} has no training split, and a profile sees no sample that evaluates. Choose a dataset that "
            "has one, or a second dataset to calibrate on.",
            "training_dataset_id" if training else "dataset_id",
        )
    check_datasets(facts, dataset, training)
    if spec.guess is not None and not (dataset is not None and dataset.facts.labels):
        raise ProfileUnfit(
            f"What a layer is worth depends on how the layers are wired, and this file does not tell. {spec.guess} "
            f"Choose a dataset with labels, which can confirm it. {advice()}",
            "dataset_id",
        )
    return preprocessing_of(spec, [one.facts for one in (dataset, training) if one is not None], preprocessing)


def task_of(facts: CheckpointFacts, dataset: NamedDataset | None, training: NamedDataset | None) -> Task | None:
    """By what a run on these datasets is measured; None where nothing is."""
    given = [one.facts for one in (dataset, training) if one is not None]
    return resolved(facts.architecture, *given) if facts.architecture else None


def check_datasets(facts: CheckpointFacts, dataset: NamedDataset | None, training: NamedDataset | None) -> None:
    """Raises DatasetUnfit where the samples are of another kind or shape than the architecture's inputs."""
    task = task_of(facts, dataset, training)
    for given, field in ((dataset, "dataset_id"), (training, "training_dataset_id")):
        if given is None:
            continue
        if facts.architecture is None:
            raise DatasetUnfit(
                f"{given.name} cannot be used: this checkpoint is weights only "
                f"({facts.weights_only_because or 'unknown'}), so nothing can be evaluated on it. "
                "Start the run without a dataset.",
                field,
            )
        try:
            fit(for_task(facts.architecture, task), given.facts)
        except DatasetUnfit as unfit:
            raise DatasetUnfit(f"{given.name} cannot be used. {unfit.message}", field) from None


def without_data(
    facts: CheckpointFacts, recipe: Recipe, dataset: NamedDataset | None, training: NamedDataset | None
) -> Iterator[tuple[int, str]]:
    """The steps, by their places, that lack data to calibrate, to train, or to confirm a guess by; and what to do."""
    yield from unconfirmable(facts, recipe, labelled=dataset is not None and bool(dataset.facts.labels))
    known, learned = techniques(), training or dataset
    if training is not None or (dataset is not None and dataset.facts.training is not None):
        assert learned is not None
        task, labelled = task_of(facts, dataset, training), bool(learned.facts.targets or learned.facts.labels)
        if task == "causal-lm" or (labelled and task not in JUDGED_BY_ORIGINAL):
            return
        lack = "none count where answers are compared with the original's" if labelled else f"{learned.name} has none"
        for index, step in enumerate(recipe.steps):
            needs = needs_of(step.technique, step.settings, step.overrides)
            if "training" in needs and "teacher" not in needs:
                title = known[step.technique].title
                yield index, f"{title} learns from labels, and {lack}; use distillation, which needs none."
        return
    for index, step in enumerate(recipe.steps):
        wanted = needs_of(step.technique, step.settings, step.overrides) & {"calibration", "training"}
        found = known[step.technique]
        if needs := wanted - found.brought(facts, found.Settings.model_validate(step.settings)):
            yield (
                index,
                f"{known[step.technique].title} needs {' and '.join(sorted(needs))} data; choose a dataset that has a "
                "training split, or a second dataset to train on.",
            )


def check_teacher(student: CheckpointFacts, teacher: CheckpointFacts, recipe: Recipe) -> None:
    """Raises RecipeInvalid where no step learns from a teacher, or where the two do not answer alike."""
    field = "teacher_checkpoint_id"
    if not any("teacher" in needs_of(step.technique, step.settings, step.overrides) for step in recipe.steps):
        raise RecipeInvalid("No step of the recipe learns from a teacher; add a distillation, or name none.", field)
    if teacher.architecture is None:
        raise RecipeInvalid(f"This checkpoint cannot teach. {teacher.weights_only_because}", field)
    if student.architecture is not None:
        try:
            check_alike(teacher.architecture, student.architecture)
        except RecipeInvalid as unlike:
            raise RecipeInvalid(unlike.message, field) from None
