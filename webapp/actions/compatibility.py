"""Which datasets can evaluate a checkpoint and which formats it can be written in, for the form and the first page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session, load_only

from webapp.engine.data.tasks import possible
from webapp.engine.errors import DatasetUnfit, PreprocessingInvalid, ProfileUnfit
from webapp.engine.exporters import exporters
from webapp.engine.facts import ArchitectureSpec, CheckpointFacts
from webapp.engine.recipe import Recipe, Step
from webapp.engine.run.checks import NamedDataset, check_datasets, check_profile
from webapp.engine.techniques import DATA_NEEDS, needs_of, techniques
from webapp.store.models import Checkpoint, Dataset, Run, UploadState

from .run_requests import named


def incompatible_datasets(session: Session, checkpoint: Checkpoint | None) -> dict[str, str | None]:
    """For every dataset that is ready, newest first: None where it fits, else the sentence that says why not."""
    return refusals(session, checkpoint, lambda facts, dataset: check_datasets(facts, dataset, None))


def unprofilable_datasets(session: Session, checkpoint: Checkpoint | None) -> dict[str, str | None]:
    """The same of a profile, which sees the training split."""
    return refusals(session, checkpoint, lambda facts, dataset: check_profile(facts, dataset, None))


def refusals(
    session: Session, checkpoint: Checkpoint | None, check: Callable[[CheckpointFacts, NamedDataset | None], Any]
) -> dict[str, str | None]:
    if checkpoint is None or checkpoint.facts is None:
        return {}
    facts, found = architecture_only(checkpoint.facts), dict[str, str | None]()
    query = select(Dataset).where(Dataset.state == UploadState.READY).order_by(Dataset.created_at.desc(), Dataset.id)
    for dataset in session.scalars(query):
        try:
            check(facts, named(dataset))
        except (DatasetUnfit, ProfileUnfit, PreprocessingInvalid) as error:
            found[dataset.id] = error.message
        else:
            found[dataset.id] = None
    return found


def incompatible_formats(checkpoint: Checkpoint | None) -> dict[str, str | None]:
    """For every format that a run may write or not: None where it fits the checkpoint, else why not."""
    choices = {name: form for name, form in exporters().items() if not form.can.always}
    if checkpoint is None or checkpoint.facts is None:
        return dict.fromkeys(choices)
    facts = architecture_only(checkpoint.facts)
    return {name: form.refuses(facts) for name, form in choices.items()}


def first_choice(session: Session, checkpoint: Checkpoint | None) -> Dataset | None:
    """The oldest dataset that fits, one with labels before one without."""
    return best_of(session, incompatible_datasets(session, checkpoint))


def best_of(session: Session, datasets: Mapping[str, str | None]) -> Dataset | None:
    fitting = [id_ for id_, reason in datasets.items() if reason is None]
    rows = [row for id_ in reversed(fitting) if (row := session.get(Dataset, id_)) is not None]
    return min(rows, key=lambda row: (row.facts or {}).get("labels") is None, default=None)


def tasks_of(facts: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    """(task, title, why it cannot be or None) of all that the checkpoint's owner may choose from."""
    spec = architecture_only(facts).architecture
    return [] if spec is None else list(possible(spec))


def architecture_only(facts: dict[str, Any]) -> CheckpointFacts:
    """The facts without tensors and layers, which may be thousands and say nothing about datasets."""
    spec = facts.get("architecture")
    return CheckpointFacts(
        format=facts["format"],
        tensors=(),
        layers=(),
        architecture=ArchitectureSpec.model_validate(spec) if spec else None,
        weights_only_because=facts.get("weights_only_because"),
        unwritable=facts.get("unwritable", {}),
        weights_bytes=facts["weights_bytes"],
    )


def other_data(session: Session, run: Run) -> list[Dataset] | None:
    """What it could be calibrated on instead, newest first; None where no step of it learns from data."""
    if not any(learns(step) for step in Recipe.read(run.recipe).steps):
        return None
    reasons = incompatible_datasets(session, run.checkpoint)
    light = load_only(Dataset.id, Dataset.name)
    rows = select(Dataset).options(light).where(Dataset.state == UploadState.READY).order_by(Dataset.created_at.desc())
    used = run.training_dataset_id or run.dataset_id
    return [row for row in session.scalars(rows) if row.id != used and reasons.get(row.id, "") is None]


def learns(step: Step) -> bool:
    """Whether a step looks at data; not one that an earlier version of Pare took and this one does not."""
    if step.technique not in techniques():
        return False
    try:
        return bool(needs_of(step.technique, step.settings, step.overrides) & DATA_NEEDS)
    except ValidationError:
        return False
