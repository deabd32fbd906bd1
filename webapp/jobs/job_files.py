"""What the engine is told of a run, a checkpoint and a dataset: rows as JSON data, files as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from webapp.engine.run.inspection import InspectionJob
from webapp.store.digests import digest_of_files
from webapp.store.models import Checkpoint, Dataset, Run

from .workplace import Workplace


def told_of_run(run: Run) -> dict[str, Any]:
    told = {"preprocessing": run.preprocessing, "task": run.task}
    options = {name: value for name, value in told.items() if value}
    return {"recipe": run.recipe, "exports": run.exports, "seed": run.seed, "options": options}


def told_of_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    return _told(checkpoint) | {"filename": checkpoint.filename, "size_bytes": checkpoint.size_bytes}


def told_of_dataset(dataset: Dataset | None) -> dict[str, Any] | None:
    return _told(dataset) if dataset else None


def normalised_digest(row: Checkpoint | Dataset | None) -> str | None:
    """Of what the engine reads, so that two uploads of the same content, for the same task, share their stages."""
    if row is None:
        return None
    task = ((row.facts or {}).get("architecture") or {}).get("task") if isinstance(row, Checkpoint) else None
    return f"{digest_of_files(row.files)} {task or ''}".strip()


def stage_job(place: Workplace, run: Run, stage: str, inputs: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """The child's job for one stage; what it reads is laid out in the folder."""
    earlier = {other.name: other for other in run.stages if other.name in inputs}
    checkpoint = told_of_checkpoint(run.checkpoint)
    return {
        "task": "stage",
        "stage": stage,
        "run": told_of_run(run),
        "checkpoint": _laid_out(place, checkpoint, run.checkpoint, folder / "checkpoint"),
        "teacher_checkpoint": _laid_out(
            place,
            told_of_checkpoint(run.teacher_checkpoint) if run.teacher_checkpoint else None,
            run.teacher_checkpoint,
            folder / "teacher_checkpoint",
        ),
        "dataset": _laid_out(place, told_of_dataset(run.dataset), run.dataset, folder / "dataset"),
        "training_dataset": _laid_out(
            place, told_of_dataset(run.training_dataset), run.training_dataset, folder / "training_dataset"
        ),
        "inputs": {name: str(place.files.materialise(earlier[name].files, folder / name)) for name in inputs},
        "inputs_facts": {name: earlier[name].facts for name in inputs},
        "output": str(folder / "output"),
        "scratch": str(place.scratch(run.id, key_of(run, stage))),
    } | place.limits()


def key_of(run: Run, stage: str) -> str:
    return next(other.key for other in run.stages if other.name == stage)


def inspection_job(place: Workplace, row: Checkpoint | Dataset, folder: Path) -> InspectionJob:
    """The inspection of an upload, whose files go into a new folder in `folder`."""
    job = InspectionJob(
        task="inspect_dataset" if isinstance(row, Dataset) else "inspect_checkpoint",
        upload=place.files.path(row.digest),
        filename=row.filename,
        output=folder / "output",
        max_unpacked_bytes=place.settings.max_unpacked_bytes,
        inspection_memory_bytes=place.settings.inspection_memory_bytes,
    )
    if isinstance(row, Dataset):
        return job.model_copy(update={"split": row.split})
    return job.model_copy(update={"dequantize": row.dequantize, "use": row.task})


def _laid_out(
    place: Workplace, told: dict[str, Any] | None, row: Checkpoint | Dataset | None, folder: Path
) -> dict[str, Any] | None:
    return told | {"folder": str(place.files.materialise(row.files, folder))} if told and row else None


def _told(row: Checkpoint | Dataset) -> dict[str, Any]:
    return {"name": row.name, "digest": row.digest, "facts": row.facts}
