"""A process that has to be there: started, and started again when it dies, after a pause that grows."""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .processes import dying_with_parent, kill_group

log = logging.getLogger(__name__)

LONGEST_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 60.0  # a child that lived this long starts with no backoff again


@dataclass
class Service:
    """A child that has to be there: started, and started again when it dies."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    descriptors: tuple[int, ...] = ()
    signal_at_death: signal.Signals = signal.SIGTERM  # what it gets when this process dies
    oom_score: int = 0
    errors: Path | None = None  # what it says on stderr goes there; else where this process's own goes
    process: subprocess.Popen[bytes] | None = None
    status: int | None = None  # with which it ended last
    starts: int = 0
    due_at: float = 0.0
    started_at: float = field(default=0.0)

    def keep_alive(self) -> None:
        """Starts the process when it is not there and its pause after a death is over."""
        at = time.monotonic()
        if self.process is not None and (status := self.process.poll()) is not None:
            self.starts = 0 if at - self.started_at > STEADY_SECONDS else self.starts
            pause = min(LONGEST_BACKOFF_SECONDS, 0.5 * 2**self.starts)
            log.warning("The %s ended with status %s; it is started again in %.1f s", self.name, status, pause)
            kill_group(self.process.pid)
            self.process, self.status, self.due_at = None, status, at + pause
        if self.process is None and at >= self.due_at:
            self.starts, self.started_at = self.starts + 1, at
            self._start()

    def end(self) -> None:
        """Kills it, and all that it started."""
        if self.process is not None:
            kill_group(self.process.pid)
            self.process.wait()
            self.process = None

    def _start(self) -> None:
        errors = self.errors.open("wb") if self.errors else None
        self.process = subprocess.Popen(
            dying_with_parent(self.command, self.signal_at_death, self.oom_score),
            env=self.environment,
            pass_fds=self.descriptors,
            stdin=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which ends all in order
        )
        if errors:
            errors.close()
