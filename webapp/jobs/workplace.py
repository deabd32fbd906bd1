"""What a worker works with, put together once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from webapp.config import InstallationSettings
from webapp.store.files import FileStore
from webapp.store.space import as_store_full

from .child import ENGINE_CHILD, HUB_CHILD, ChildSupervisor
from .heartbeat import neighbours

STORE_PATIENCE_SECONDS = 3600.0  # an object store that is away this long fails what needs it


@dataclass(frozen=True)
class Workplace:
    settings: InstallationSettings
    executor_id: str
    sessions: sessionmaker[Session]
    files: FileStore
    children: ChildSupervisor
    hub: ChildSupervisor = field(
        default_factory=lambda: ChildSupervisor(entry=HUB_CHILD)
    )  # starts nothing before it is used

    @classmethod
    def of(
        cls,
        settings: InstallationSettings,
        executor_id: str,
        sessions: sessionmaker[Session],
        entry: str = ENGINE_CHILD,
    ) -> Workplace:
        children, hub = (
            ChildSupervisor(
                entry=module,
                threads=threads,
                restarts=settings.child_restarts,
                poll_seconds=settings.cancel_poll_seconds,
                tell_seconds=settings.progress_interval_seconds,
            )
            for module, threads in ((entry, settings.threads(settings.workers)), (HUB_CHILD, 1))
        )
        return cls(settings, executor_id, sessions, file_store(settings, STORE_PATIENCE_SECONDS), children, hub)

    @property
    def folder(self) -> Path:
        """Of this worker alone; what an earlier life left in it is removed at start."""
        return self.settings.work / self.executor_id

    def limits(self) -> dict[str, int | None]:
        """Of the next child, as its job has them: the workers that are alive on this machine share its cores."""
        with self.sessions() as session:
            threads = self.settings.threads(neighbours(session))
        return {"memory_limit_bytes": self.settings.run_memory_limit_bytes, "threads": threads}

    @contextmanager
    def folder_for(self, name: str) -> Iterator[Path]:
        """An empty working folder, gone afterwards. A full disk in it is told as StoreFull."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        try:
            with as_store_full(folder):
                folder.mkdir(parents=True)
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def scratch(self, run_id: str, stage_key: str = "") -> Path:
        """Where the stage of this key keeps what it would not do twice: it outlives children, workers and attempts.

        Without a key, the folder of all stages of the run.
        """
        return self.scratches / run_id / stage_key

    @property
    def scratches(self) -> Path:
        return self.settings.work / "scratch"


def file_store(settings: InstallationSettings, patience_seconds: float = 0.0) -> FileStore:
    """The installation's files; with a remote store, copies that are needed here go into the instance folder."""
    return FileStore(settings.files_url, settings.instance / "cache", settings.min_free_bytes, patience_seconds)
