"""Asking for a profile of a checkpoint on a dataset: computed once, and found again by all that it depends on."""

from __future__ import annotations

from typing import Any, Protocol

from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.engine.facts import CheckpointFacts
from webapp.engine.run.checks import check_profile, task_of
from webapp.engine.run.profile_job import profile_key
from webapp.engine.run.stages.job import DataGiven
from webapp.store.clock import now
from webapp.store.database import begin_writing
from webapp.store.models import Checkpoint, Dataset, Profile, RunState

from .continuing import digests_of
from .errors import Conflict
from .run_requests import named, ready

THERE = (RunState.QUEUED, RunState.RUNNING, RunState.SUCCEEDED)


class ProfileQueue(Protocol):
    """The part of the job client that profiles need."""

    def enqueue_profile(self, profile_id: str) -> Any: ...
    def cancel_profile(self, profile_id: str) -> Any: ...
    def retry_profile(self, profile_id: str) -> Any: ...


class ProfileRequest(BaseModel, extra="forbid"):
    """What is asked for."""

    checkpoint_id: str
    dataset_id: str | None = Field(None, description="Its training part is seen; inputs without labels will do.")
    training_dataset_id: str | None = Field(None, description="Is seen in place of the dataset's own training part.")
    seed: int = Field(0, ge=0, lt=2**31)
    preprocessing: dict[str, Any] | None = Field(None, description="Of images, as of a run.")


def create_profile(session: Session, jobs: ProfileQueue, asked: ProfileRequest) -> Profile:
    """The profile that there is already, or under way; else a queued one.

    Raises NotFound (field says which id), Conflict (something is not ready), ProfileUnfit, DatasetUnfit or
    PreprocessingInvalid.
    """
    checkpoint = ready(session, Checkpoint, asked.checkpoint_id, "checkpoint_id")
    dataset, training = (
        ready(session, Dataset, id_, field) if (id_ := getattr(asked, field)) else None
        for field in ("dataset_id", "training_dataset_id")
    )
    facts = CheckpointFacts.model_validate(checkpoint.facts)
    prepared = check_profile(facts, named(dataset), named(training), asked.preprocessing)
    given = {
        "seed": asked.seed,
        "preprocessing": prepared.model_dump(mode="json") if prepared else None,
        "task": task_of(facts, named(dataset), named(training)),
    }
    digests = digests_of(checkpoint, dataset, training)
    row = Profile(
        checkpoint_id=checkpoint.id,
        dataset_id=dataset.id if dataset else None,
        training_dataset_id=training.id if training else None,
        key=profile_key(DataGiven.model_validate(given), digests),
        **given,
    )
    found, twin = _there(session, row)
    if twin is not None:
        session.commit()
        return twin
    if same := next((other for other in found if other.state is RunState.SUCCEEDED), None):  # of another upload
        row.facts, row.measured = same.facts, [*same.measured]
        row.state, row.progress, row.message, row.finished_at = RunState.SUCCEEDED, 1.0, same.message, now()
    session.add(row)
    session.commit()
    if not row.state or not row.state.final:
        jobs.enqueue_profile(row.id)
    return row


def _there(session: Session, row: Profile) -> tuple[list[Profile], Profile | None]:
    """What is known of the same content or under way, and that of the very same rows; begins to write.

    Of two that ask at once, the second finds the first one's.
    """
    begin_writing(session)
    session.execute(select(Checkpoint.id).where(Checkpoint.id == row.checkpoint_id).with_for_update())
    found = list(session.scalars(select(Profile).where(Profile.key == row.key, Profile.state.in_(THERE))))
    ids = ("checkpoint_id", "dataset_id", "training_dataset_id")
    alike = (other for other in found if all(getattr(other, name) == getattr(row, name) for name in ids))
    return found, next(alike, None)


def cancel_profile(session: Session, jobs: ProfileQueue, profile: Profile) -> None:
    """Raises Conflict where it has already ended."""
    if profile.state.final:
        raise Conflict(f"The profile has already ended ({profile.state}); there is nothing to cancel.")
    jobs.cancel_profile(profile.id)
    session.expire(profile)


def retry_profile(session: Session, jobs: ProfileQueue, profile: Profile) -> Profile:
    """The profile itself, or the same one where it was asked for anew meanwhile.

    Raises Conflict where there is nothing to retry.
    """
    if profile.state not in (RunState.FAILED, RunState.CANCELLED):
        raise Conflict(f"The profile is {profile.state}; only one that failed or was cancelled can be retried.")
    _, twin = _there(session, profile)
    session.commit()
    if twin is not None:
        return twin
    jobs.retry_profile(profile.id)
    session.expire(profile)
    return profile
