"""Datasets sent through deployments of this machine, one after the other, by a child of the deployer.

What is asked for stands in rows. One that was under way when Pare ended begins anew.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from webapp.config import InstallationSettings
from webapp.engine.errors import PareError
from webapp.serving.client import state_of
from webapp.serving.errors import Unavailable
from webapp.store.clock import now
from webapp.store.database import writing
from webapp.store.errors import StoreError
from webapp.store.files import FileStore
from webapp.store.models import SAMPLES, Deployment, DeploymentState, Replay, RunState

from .child import ChildSupervisor
from .errors import Stopped
from .job_files import data_given, replay_sources
from .job_progress import JobProgress
from .job_work import JobWork
from .queues import JobKind
from .workplace import Workplace

log = logging.getLogger(__name__)

REPLAY_CHILD = "webapp.serving.replay"
READY_SECONDS = 120.0  # within which a model that was started for a replay has to answer
LOOK_SECONDS = 0.25
OVERTIME_SECONDS = 300.0  # beside those that were asked for: reading the dataset, scoring
REPLAY = JobKind(Replay, "", "replay-")  # no queue: the deployer looks for rows


class ReplayRunner:
    """Does what waits for this machine in a thread of its own, one at a time."""

    def __init__(self, settings: InstallationSettings, sessions: sessionmaker[Session], files: FileStore) -> None:
        children = ChildSupervisor(
            entry=REPLAY_CHILD,
            threads=1,
            restarts=0,
            poll_seconds=settings.cancel_poll_seconds,
            tell_seconds=settings.progress_interval_seconds,
        )
        self.place = Workplace(settings, f"{settings.machine}-replays", sessions, files, children)
        self._thread = threading.Thread()

    def look(self, waiting: list[tuple[str, int]]) -> None:
        """To be called now and then with the ids and attempts of those that wait, the oldest first."""
        if self._thread.is_alive():
            return
        if not waiting:
            self.place.children.forks.rest(ready=False)  # replays are seldom, and torch is large
            return
        work = ReplayWork(self.place, *waiting[0])
        self._thread = threading.Thread(target=work.replay, name=f"replay {work.id}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self.place.children.closing.set()
        self.place.children.kill_all()


class ReplayWork(JobWork):
    kind = REPLAY

    def replay(self) -> None:
        try:
            if (row := self._begin()) is not None:
                self._record(self._replayed(row))
        except Stopped:
            log.info("The replay %s is not wanted any more", self.id)
        except (PareError, StoreError) as error:
            self.fail(error.as_dict())
        except Exception as error:
            log.exception("The replay %s failed for a reason that nobody foresaw", self.id)
            self.fail({"code": "internal", "message": f"Something went wrong inside Pare ({type(error).__name__})."})

    def _begin(self) -> Replay | None:
        with writing(self.place.sessions) as session:
            row: Replay | None = self._mine(session)
            if row is None:
                return None
            row.state, row.started_at, row.message = RunState.RUNNING, now(), "Waiting for the model to answer"
            _ = row.beside, row.deployment.run.checkpoint, row.deployment.run.dataset, row.deployment.run.artifacts
            return row

    def _replayed(self, row: Replay) -> dict[str, Any]:
        sides = [self._ready(row.deployment)] + ([self._ready(row.beside)] if row.beside_id else [])
        run, place = row.deployment.run, self.place
        progress = JobProgress(place.sessions, Replay, self.id, self.attempt)
        with place.folder_for(self.kind.workflow_id(self.id, self.attempt)) as folder:
            kept = next((each.digest for each in run.artifacts if each.format == SAMPLES and each.digest), None)
            order = {
                **replay_sources(place.files, run, folder).model_dump(mode="json"),
                "run": data_given(run).model_dump(mode="json"),
                "output": str(folder / "output"),
                "sides": [_side(each, run.id) for each in sides],
                "samples": row.samples,
                "seconds": row.seconds,
                "timeout_seconds": place.settings.request_timeout_seconds,
                "samples_file": str(place.files.path(kept)) if kept else None,
                **place.limits(),
                "threads": 1,  # beside the models', which compute
            }
            until = time.monotonic() + row.seconds + OVERTIME_SECONDS
            found: dict[str, Any] = place.children.run(order, folder, progress.tell, lambda: self._over(until))
            return found

    def _over(self, until: float) -> bool:
        if time.monotonic() > until:
            raise Unavailable("The replay took far longer than it was given, and was ended.")
        return self.unwanted()

    def _ready(self, wanted: Deployment | None) -> Deployment:
        """The deployment, once its process answers. Raises Stopped, Unavailable."""
        until = time.monotonic() + READY_SECONDS
        while wanted is not None:
            if self.unwanted():
                raise Stopped("the work is not wanted any more")
            with self.place.sessions() as session:
                wanted = session.get(Deployment, wanted.id)
            ready = wanted is not None and wanted.state is DeploymentState.READY
            if ready and _answers(wanted):
                return wanted  # type: ignore[return-value]
            if wanted is not None and not ready and wanted.state is not DeploymentState.STARTING:
                why = f": {wanted.reason}" if wanted.reason else ""
                raise Unavailable(f"{wanted.title} is {wanted.state.value}{why}. Start it, then replay again.")
            if time.monotonic() > until:
                raise Unavailable(f"The model did not answer within {READY_SECONDS:.0f} s of its start.")
            time.sleep(LOOK_SECONDS)
        raise Unavailable("A model of this replay is not there any more; it was deleted.")

    def _record(self, result: dict[str, Any]) -> None:
        with writing(self.place.sessions) as session:
            row: Replay | None = self._mine(session)
            if row is not None:
                row.result, row.state, row.progress = result, RunState.SUCCEEDED, 1.0
                row.message, row.seconds_left, row.finished_at = "Done", None, now()


def _answers(row: Deployment | None) -> bool:
    """Whether its process does: a row may speak of one that has just ended."""
    if row is None or row.socket is None or row.signature is None:
        return False
    try:
        return bool(state_of(row.socket, LOOK_SECONDS))
    except Unavailable:
        return False


def _side(row: Deployment, run_id: str) -> dict[str, Any]:
    recorded = ("original" if row.of_original else "result") if row.run_id == run_id else None
    return {
        "name": row.name,
        "title": row.title,
        "socket": row.socket,
        "signature": row.signature,
        "recorded": recorded,
    }
