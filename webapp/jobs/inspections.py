"""The inspection of an upload: in the child process, because nothing else may parse what is uploaded."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from webapp.engine.errors import OutOfMemory, PareError
from webapp.engine.facts import CheckpointFacts
from webapp.engine.importers.reading import digest_of_sources
from webapp.store.database import writing
from webapp.store.digests import forget_upload, maker_of
from webapp.store.errors import StoreError
from webapp.store.models import Checkpoint, Dataset, UploadState

from .child import CurvePoint
from .downloads import fetched, forget, require_as_told
from .errors import ChildDied, InspectionTooLong, Stopped
from .examinations import look_at_structure, try_formats
from .job_files import inspection_job
from .lying_files import noted, stored
from .queues import Kind
from .workplace import Workplace

log = logging.getLogger(__name__)

BYTES_PER_SECOND = 1_000_000  # beside the setting: a tenth of what a slow disk does


@dataclass(frozen=True)
class InspectionWork:
    place: Workplace
    kind: Kind
    id: str

    def inspect(self) -> None:
        """Turns the upload's state to ready or refused; may be called again after a crash at any point."""
        with self.place.sessions() as session:
            row = self._row(session)
        if row is None or row.state != UploadState.INSPECTING:
            return
        try:
            with self.place.folder_for(f"{self.kind}-{self.id}") as folder:
                digests = self._fetched(row)
                job = inspection_job(self.place, row, folder).model_dump(mode="json") | self.place.limits()
                seconds = self.place.settings.inspection_seconds + row.size_bytes / BYTES_PER_SECOND
                until = time.monotonic() + seconds

                def unwanted() -> bool:
                    if time.monotonic() > until:
                        raise InspectionTooLong(
                            f"Reading {row.filename} took longer than the {seconds:.0f} seconds that an upload of its "
                            "size may take (setting inspection_seconds). If it is what it should be, raise that, or "
                            "upload a smaller one."
                        )
                    return self.unwanted()

                facts = self.place.children.run(job, folder, self._tell, unwanted)
                if self.kind == "checkpoint":
                    facts = examined(self.place, self.id, self._tried(facts, folder), self.unwanted)
                    require_as_told(digests, facts)
                in_place = noted(self.place, folder / "output", facts) if self._source(row) == "path" else {}
                known = (row.source or {}).get("files", {}) if isinstance(row, Checkpoint) else {}
                moved = stored(self.place, folder / "output", known)
                files = self.place.files.put_folder(folder / "output") | moved
            self._record(UploadState.READY, files, facts, None, in_place)
        except Stopped:
            log.info("The %s %s was deleted while it was inspected", self.kind, self.id)
            self._forget(row)
        except OutOfMemory as error:
            told = f"Reading {row.filename} took more memory than there is. Upload a smaller one, or give Pare more."
            self.refuse(error.as_dict() | {"message": told})
        except ChildDied as error:
            log.error("The inspection of the %s %s: %s", self.kind, self.id, error)
            told = f"The process that read {row.filename} did not survive it: it is damaged, or was made to do that."
            self.refuse(error.as_dict() | {"message": f"{told} Write it again; the worker's log says more."})
        except (PareError, StoreError) as error:
            self.refuse(error.as_dict())

    def _source(self, row: Checkpoint | Dataset) -> str | None:
        return (row.source or {}).get("kind") if isinstance(row, Checkpoint) else None

    def _fetched(self, row: Checkpoint | Dataset) -> dict[str, str]:
        if self._source(row) != "hub":
            return {}
        assert isinstance(row, Checkpoint)
        return fetched(self.place, row, self._tell, self.unwanted)

    def _tried(self, facts: dict[str, Any], folder: Path) -> dict[str, Any]:
        limit = self.place.settings.run_memory_limit_bytes
        with self.place.folder_for(f"{self.kind}-{self.id}-formats") as own:
            return try_formats(self.place.children, facts, folder / "output", own, _tell_nobody, self.unwanted, limit)

    def refuse(self, reason: dict[str, Any]) -> None:
        self._record(UploadState.REFUSED, {}, None, reason)

    def unwanted(self) -> bool:
        with self.place.sessions() as session:
            return self._row(session) is None

    def _tell(self, fraction: float | None, message: str, lines: list[str], points: Sequence[CurvePoint] = ()) -> None:
        if fraction is None or self.kind != "checkpoint":
            return
        told = {"progress": fraction} | ({"message": message[:500]} if message else {})
        mine = (Checkpoint.id == self.id, Checkpoint.state == UploadState.INSPECTING)
        try:
            with self.place.sessions.begin() as session:
                session.execute(update(Checkpoint).where(*mine).values(**told))
        except OperationalError as error:  # a busy database
            log.warning("Progress of the inspection of %s could not be noted: %s", self.id, error)

    def _record(
        self,
        state: UploadState,
        files: dict[str, Any],
        facts: Any,
        reason: dict[str, Any] | None,
        in_place: dict[str, Any] | None = None,
    ) -> None:
        with writing(self.place.sessions) as session:
            row = self._row(session, lock=True)
            if row is None or row.state != UploadState.INSPECTING:
                return
            row.state, row.files, row.facts, row.reason = state, files, facts, reason
            if isinstance(row, Checkpoint):
                row.in_place = in_place or {}
                if facts and facts.get("sources"):
                    sources = CheckpointFacts.model_validate(facts).sources
                    row.digest, row.size_bytes = digest_of_sources(sources), sum(s.size_bytes for s in sources)
                row.delivered_by_id = row.delivered_by_id or maker_of(session, row)  # the weights of an archive, too
        with self.place.sessions() as session:
            forget_upload(session, self.place.files, row)
        self._forget(row)

    def _forget(self, row: Checkpoint | Dataset) -> None:
        if isinstance(row, Checkpoint):
            forget(self.place, row)

    def _row(self, session: Session, lock: bool = False) -> Checkpoint | Dataset | None:
        if self.kind == "checkpoint":
            return session.get(Checkpoint, self.id, with_for_update=lock)
        return session.get(Dataset, self.id, with_for_update=lock)


def look_at_structures(place: Workplace) -> None:
    """Of checkpoints whose facts lack it, because an earlier version of Pare inspected them."""
    facts = Checkpoint.facts
    lacking = select(Checkpoint.id).where(
        Checkpoint.state == UploadState.READY,
        facts["architecture"].as_string().is_not(None),
        or_(facts["structure"].as_string().is_(None), facts["pass_size"].as_string().is_(None)),
    )
    with place.sessions() as session:
        ids = session.scalars(lacking).all()
    for id_ in ids:
        with place.sessions() as session:
            row = session.get(Checkpoint, id_)

        def unwanted(id_: str = id_) -> bool:
            with place.sessions() as session:
                return session.get(Checkpoint, id_) is None

        if row is None or row.facts is None or (row.facts.get("structure") and "pass_size" in row.facts):
            continue
        try:
            found = examined(place, id_, row.facts, unwanted)
        except Stopped:
            continue
        with writing(place.sessions) as session:
            row = session.get(Checkpoint, id_, with_for_update=True)
            if row is not None:
                row.facts = {**(row.facts or {}), "structure": found["structure"], "pass_size": found["pass_size"]}
        log.info("The structure of the checkpoint %s is known now", id_)


def examined(place: Workplace, id: str, facts: dict[str, Any], unwanted: Callable[[], bool]) -> dict[str, Any]:
    """The facts of a checkpoint with its structure. Raises Stopped."""
    limits = (place.settings.inspection_memory_bytes, place.settings.run_memory_limit_bytes)
    most = min(filter(None, limits), default=None)
    with place.folder_for(f"checkpoint-{id}-structure") as folder:
        return look_at_structure(place.children, facts, folder, _tell_nobody, unwanted, most)


def _tell_nobody(fraction: float | None, message: str, lines: list[str], points: Sequence[CurvePoint] = ()) -> None:
    """An inspection takes seconds; its page says only that it is going on."""
