"""The durable workflows: a run is one, each of its stages a step; a profile and an inspection have a single step.

DBOS records which steps are done and starts a workflow again whose worker died. Everything else, the truth that
pages show included, is in our own tables; the steps are safe to repeat.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dbos import DBOS
from sqlalchemy.exc import OperationalError

from webapp.store.errors import StoreFull
from webapp.store.space import FULL, is_full

from .inspections import InspectionWork
from .job_work import JobWork
from .profiles import ProfileWork
from .publications import PublicationWork
from .queues import INSPECTION_WORKFLOW, PROFILE, PUBLICATION, RUN, JobKind, Kind, inspection_workflow_id
from .runs import RunWork
from .workplace import Workplace

log = logging.getLogger(__name__)

WORK: dict[JobKind, type[JobWork]] = {work.kind: work for work in (RunWork, ProfileWork, PublicationWork)}

FAIL_AGAIN_SECONDS = (1, 2, 4, 8)  # between the attempts to write down that something failed
_place: Workplace | None = None
_in_hand: set[str] = set()


def work_at(place: Workplace) -> None:
    """Says what the workflows of this process work with; to be called before DBOS is launched."""
    global _place
    _place = place


def place() -> Workplace:
    assert _place is not None, "work_at() was not called"
    return _place


def _is_passing(error: BaseException) -> bool:
    if is_full(error, place().settings.instance):
        error.add_note(FULL)  # told now, for SQLite's I/O errors do not say it, and in the end there may be room again
    return isinstance(error, OperationalError)  # a database that restarts, or is busy


def in_hand() -> frozenset[str]:
    """The ids of the workflows that this process is at."""
    return frozenset(_in_hand)


@contextmanager
def _at(workflow_id: str) -> Iterator[None]:
    _in_hand.add(workflow_id)
    try:
        yield
    finally:
        _in_hand.discard(workflow_id)


def internal(error: Exception) -> dict[str, str]:
    """What the user is told of an error that nobody foresaw."""
    causes = getattr(error, "errors", None)  # of a step that was tried again and again
    causes = causes if isinstance(causes, list) else [error]
    if any(FULL in getattr(cause, "__notes__", ()) or is_full(cause, place().settings.instance) for cause in causes):
        return StoreFull(FULL).as_dict()
    message = f"Something went wrong inside Pare ({type(error).__name__}). The worker's log has the details."
    return {"code": "internal", "message": message[:1000]}


def fail(said: Callable[[dict[str, str]], None], error: Exception) -> None:
    """Has it written down; a database that does not take it now, for the disk is full, is asked again for a while."""
    told = internal(error)
    for seconds in FAIL_AGAIN_SECONDS:
        try:
            return said(told)
        except OperationalError:
            time.sleep(seconds)
    said(told)


@DBOS.step(name="begin", retries_allowed=True, max_attempts=6, should_retry=_is_passing)
def begin(run_id: str, attempt: int) -> list[str]:
    return RunWork(place(), run_id, attempt).begin()


@DBOS.step(name="stage", retries_allowed=True, max_attempts=6, should_retry=_is_passing)
def stage(run_id: str, attempt: int, name: str) -> bool:
    return RunWork(place(), run_id, attempt).stage(name)


@DBOS.step(name="finish", retries_allowed=True, max_attempts=6, should_retry=_is_passing)
def finish(run_id: str, attempt: int) -> None:
    RunWork(place(), run_id, attempt).finish()


@DBOS.workflow(name=RUN.workflow)
def pare_run(run_id: str, attempt: int) -> None:
    with _at(RUN.workflow_id(run_id, attempt)):
        try:
            if (names := begin(run_id, attempt)) and all(stage(run_id, attempt, name) for name in names):
                finish(run_id, attempt)
        except Exception as error:
            log.exception("Run %s failed for a reason that nobody foresaw", run_id)
            fail(RunWork(place(), run_id, attempt).fail, error)


@DBOS.step(name="profile", retries_allowed=True, max_attempts=6, should_retry=_is_passing)
def profile(profile_id: str, attempt: int) -> None:
    ProfileWork(place(), profile_id, attempt).profile()


@DBOS.workflow(name=PROFILE.workflow)
def pare_profile(profile_id: str, attempt: int) -> None:
    with _at(PROFILE.workflow_id(profile_id, attempt)):
        try:
            profile(profile_id, attempt)
        except Exception as error:
            log.exception("Profile %s failed for a reason that nobody foresaw", profile_id)
            fail(ProfileWork(place(), profile_id, attempt).fail, error)


@DBOS.step(name="publish", retries_allowed=True, max_attempts=6, should_retry=_is_passing)
def publish(publication_id: str, attempt: int) -> None:
    PublicationWork(place(), publication_id, attempt).publish()


@DBOS.workflow(name=PUBLICATION.workflow)
def pare_publication(publication_id: str, attempt: int) -> None:
    with _at(PUBLICATION.workflow_id(publication_id, attempt)):
        try:
            publish(publication_id, attempt)
        except Exception as error:
            log.exception("Publication %s failed for a reason that nobody foresaw", publication_id)
            fail(PublicationWork(place(), publication_id, attempt).fail, error)


@DBOS.step(name="inspect", retries_allowed=True, max_attempts=6, should_retry=_is_passing)
def inspect(kind: Kind, id: str) -> None:
    InspectionWork(place(), kind, id).inspect()


@DBOS.workflow(name=INSPECTION_WORKFLOW)
def pare_inspection(kind: Kind, id: str) -> None:
    with _at(inspection_workflow_id(kind, id)):
        try:
            inspect(kind, id)
        except Exception as error:
            log.exception("The inspection of %s %s failed for a reason that nobody foresaw", kind, id)
            InspectionWork(place(), kind, id).refuse(internal(error))
