"""A profile's work: one piece, by a child that keeps in its scratch folder what it would not compute twice."""

from __future__ import annotations

import logging
from typing import Any

from webapp.engine.errors import PareError
from webapp.store.clock import now
from webapp.store.database import writing
from webapp.store.errors import StoreError
from webapp.store.models import Profile, RunState

from .errors import Stopped
from .job_files import profile_job
from .job_progress import JobProgress
from .job_work import JobWork
from .lying_files import require_unchanged
from .queues import PROFILE

log = logging.getLogger(__name__)


class ProfileWork(JobWork):
    """One attempt at a profile. May be called again after a crash at any point."""

    kind = PROFILE

    def profile(self) -> None:
        try:
            if (row := self._begin()) is not None:
                self._record(self._computed(row))
                self._forget_scratch()
        except Stopped:  # a retry goes on with what it has kept
            log.info("The profile %s is not wanted any more", self.id)
        except (PareError, StoreError) as error:
            self.fail(error.as_dict())

    def _begin(self) -> Profile | None:
        """The row with its checkpoint and datasets, free of any session; None where there is nothing to do."""
        with writing(self.place.sessions) as session:
            row: Profile | None = self._mine(session)
            if row is None:
                return None
            row.state, row.started_at, row.message = RunState.RUNNING, row.started_at or now(), "Reading the checkpoint"
            _ = row.checkpoint, row.dataset, row.training_dataset
            return row

    def _computed(self, row: Profile) -> dict[str, Any]:
        """What the child found. Nothing of the database is held meanwhile."""
        self.place.files.require_free(0)
        progress = JobProgress(self.place.sessions, Profile, self.id, self.attempt)
        with self.place.folder_for(self.kind.workflow_id(self.id, self.attempt)) as folder:
            job = profile_job(self.place, row, folder)
            order = {"task": "profile", **job.model_dump(mode="json"), **self.place.limits()}
            found: dict[str, Any] = self.place.children.run(order, folder, progress.tell, self.unwanted)
            require_unchanged(self.place, row.checkpoint)  # once more: it was read meanwhile
            return found

    def _record(self, facts: dict[str, Any]) -> None:
        with writing(self.place.sessions) as session:
            row: Profile | None = self._mine(session)
            if row is not None:
                row.facts, row.state, row.progress = facts, RunState.SUCCEEDED, 1.0
                row.message, row.seconds_left, row.finished_at = "Done", None, now()
