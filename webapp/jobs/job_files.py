"""What the engine is told of a run, a profile, a checkpoint and a dataset: rows as its records, files as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from webapp.engine.facts import CheckpointFacts, DatasetFacts
from webapp.engine.recipe import Recipe
from webapp.engine.run.footprint import footprint, shapes_of
from webapp.engine.run.inspection import InspectionJob
from webapp.engine.run.profile_job import ProfileJob
from webapp.engine.run.stages import RunGiven, RunStage, StageJob
from webapp.engine.run.stages.base import SourceDigests
from webapp.engine.run.stages.job import DataGiven, RunSources, SourcesGiven, StageOutput
from webapp.engine.weights.originals import is_weights
from webapp.store.digests import normalised_digest
from webapp.store.files import FileStore
from webapp.store.models import Checkpoint, Dataset, Profile, Run, Stage

from .downloads import folder_of
from .lying_files import link_in_place, path_of, require_unchanged
from .workplace import Workplace

GIVEN = ("exports", "seed", "preprocessing", "task", "blame", "prompts")


def run_given(run: Run) -> RunGiven:
    """Raises RecipeInvalid for a recipe that an earlier version of Pare took and this one does not."""
    given = {name: getattr(run, name) for name in GIVEN}
    return RunGiven.model_validate({"recipe": Recipe.read(run.recipe), **given})


def data_given(run: Run | Profile) -> DataGiven:
    return DataGiven.model_validate({name: getattr(run, name) for name in DataGiven.model_fields if name in GIVEN})


def foreseen(run: Run) -> dict[str, Any]:
    """What the run needs of memory and disk at most, as its row keeps it. Raises RecipeInvalid."""
    asked = run_given(run)
    data = [row and DatasetFacts.model_validate(row.facts) for row in (run.dataset, run.training_dataset)]
    checkpoint, teacher = (
        row and CheckpointFacts.model_validate(row.facts) for row in (run.checkpoint, run.teacher_checkpoint)
    )
    return footprint(asked, shapes_of(asked, checkpoint, *data, teacher)).model_dump(mode="json")


def run_sources(run: Run) -> RunSources:
    """The run's uploads, as its receipt names them."""
    return RunSources.model_validate({name: row and _record(row) for name, row in _uploads(run).items()})


def source_digests(run: Run) -> SourceDigests:
    """Of what the engine reads."""
    others = (run.dataset, run.training_dataset, run.teacher_checkpoint)
    return SourceDigests(normalised_digest(run.checkpoint), *(row and normalised_digest(row) for row in others))


def stage_job(place: Workplace, run: Run, stage: RunStage, done: dict[str, Stage], folder: Path) -> StageJob:
    """The child's job for one stage; what it reads is laid out in the folder, of the stages that are done."""
    inputs = {
        name: StageOutput(folder=place.files.materialise(done[name].files, folder / name), facts=done[name].facts or {})
        for name in stage.inputs
        if name in done
    }
    key = next(row.key for row in run.stages if row.name == stage.name)
    output, scratch = folder / "output", place.scratch(run.id, key)
    job = StageJob.of(stage, _laid_out(place, run, folder), inputs, output, scratch)
    return job.model_copy(update={"timing_seconds": place.settings.timing_seconds})


def profile_job(place: Workplace, profile: Profile, folder: Path) -> ProfileJob:
    """The child's job for a profile; what it reads is laid out in the folder."""
    sources = dict(_laid_out(place, profile, folder))
    return ProfileJob(run=data_given(profile), **sources, output=folder / "output", scratch=place.scratch(profile.id))


def inspection_job(place: Workplace, row: Checkpoint | Dataset, folder: Path) -> InspectionJob:
    """The inspection of an upload, whose files go into a new folder in `folder`. Raises SourceChanged."""
    lies_at = _lies_at(place, row, folder) if isinstance(row, Checkpoint) else None
    job = InspectionJob(
        task="inspect_dataset" if isinstance(row, Dataset) else "inspect_checkpoint",
        upload=lies_at or place.files.path(row.digest),
        in_place=lies_at is not None,
        filename=row.filename,
        output=folder / "output",
        max_unpacked_bytes=place.settings.max_unpacked_bytes,
        inspection_memory_bytes=place.settings.inspection_memory_bytes,
    )
    if isinstance(row, Dataset):
        return job.model_copy(update={"split": row.split})
    return job.model_copy(update={"dequantize": row.dequantize, "use": row.task})


def replay_sources(files: FileStore, run: Run, folder: Path) -> SourcesGiven:
    """The run's dataset, and of its checkpoint all but the weights, laid out in folders."""
    assert run.dataset is not None
    beside = {name: entry for name, entry in run.checkpoint.files.items() if not is_weights(name)}
    given = {
        "checkpoint": _record(run.checkpoint) | {"folder": files.materialise(beside, folder / "checkpoint")},
        "dataset": _record(run.dataset) | {"folder": files.materialise(run.dataset.files, folder / "dataset")},
    }
    return SourcesGiven.model_validate(given)


def _lies_at(place: Workplace, checkpoint: Checkpoint, folder: Path) -> Path | None:
    """The file or folder that is inspected where it is; None: the file in the store."""
    source = checkpoint.source or {}
    match source.get("kind"):
        case "path":
            return path_of(place, checkpoint)
        case "hub":
            return folder_of(place, checkpoint)
        case "files":
            return place.files.materialise(source["files"], folder / "upload")
    return None


def _laid_out(place: Workplace, row: Run | Profile, folder: Path) -> SourcesGiven:
    given = {
        name: upload and _record(upload) | {"folder": _files_of(place, upload, folder / name)}
        for name, upload in _uploads(row).items()
    }
    return SourcesGiven.model_validate(given)


def _files_of(place: Workplace, upload: Checkpoint | Dataset, folder: Path) -> Path:
    place.files.materialise(upload.files, folder)
    if isinstance(upload, Checkpoint):
        require_unchanged(place, upload)
        link_in_place(upload, folder)
    return folder


def _uploads(row: Run | Profile) -> dict[str, Checkpoint | Dataset | None]:
    return {name: getattr(row, name, None) for name in RunSources.model_fields}  # a profile has no teacher


def _record(row: Checkpoint | Dataset) -> dict[str, Any]:
    named = {"name": row.name, "digest": row.digest, "facts": row.facts}
    if isinstance(row, Dataset):
        return named
    source = row.source or {}
    origin = f"{source['repo_id']} at {source['revision']}" if source.get("kind") == "hub" else None
    return named | {"filename": row.filename, "size_bytes": row.size_bytes, "origin": origin}
