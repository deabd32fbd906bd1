"""Which worker this is: a number that is free in this installation, held by a lock as long as the process lives."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from webapp.config import InstallationSettings


class WorkerSlot:
    """`executor_id` stays the same over restarts, and no two live processes have the same."""

    def __init__(self, executor_id: str, lock: IO[str]) -> None:
        self.executor_id = executor_id
        self._lock = lock  # kept open: closing it would free the slot

    @classmethod
    def claim(cls, settings: InstallationSettings) -> WorkerSlot:
        """Takes the lowest free number. The system frees it when the process ends, also by kill -9."""
        folder = settings.instance / "workers"
        folder.mkdir(exist_ok=True)
        number = 1
        while (lock := _locked(folder / f"{number}.lock")) is None:
            number += 1
        return cls(f"{settings.machine}-{number}", lock)

    def release(self) -> None:
        self._lock.close()


def _locked(path: Path) -> IO[str] | None:
    lock = path.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock
