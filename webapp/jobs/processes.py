"""Starting processes that do not outlive their parent, killing them whole, and learning what the kernel killed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PARENT_DEATH = Path(__file__).with_name("parent_death.py")
PACKAGE_PARENT = Path(__file__).parents[2]
log = logging.getLogger(__name__)

LONGEST_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 60.0  # a child that lived this long starts with no backoff again


def dying_with_parent(command: Sequence[str], signal_at_death: signal.Signals, oom_score: int = 0) -> list[str]:
    """The command, made to get `signal_at_death` when the thread that starts it ends."""
    command_line = [sys.executable, "-I", "-S", str(PARENT_DEATH)]
    return [*command_line, str(int(signal_at_death)), str(os.getpid()), str(oom_score), *command]


def python(*arguments: str) -> list[str]:
    """This Python, which imports nothing from the folder that it is started in: a file there may be named as a module.

    Pare itself is found by the PYTHONPATH of its environment.
    """
    return [sys.executable, "-P", *arguments]


def child_environment(threads: int) -> dict[str, str]:
    """The worker's own, with the threads limited and no way to a model hub."""
    count = str(threads)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PARE_")}
    paths = [str(PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what CUDA needs to add up in the same order every time
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # a process that has only looked for a GPU can still fork
        "NUMEXPR_NUM_THREADS": count,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(paths),
        "MALLOC_ARENA_MAX": "1",  # each thread would keep freed memory of its own
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # its own takes a gigabyte of addresses, which count as memory
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait take several times the CPU on a busy machine
        "PYTHONUNBUFFERED": "1",
    }


def kill_group(process_id: int) -> None:
    """SIGKILL for the process, its session's group, and descendants that left the group."""
    try:
        descendants = psutil.Process(process_id).children(recursive=True)
    except psutil.NoSuchProcess:
        descendants = []
    with suppress(ProcessLookupError, PermissionError):  # macOS answers "not permitted" for a group of the dead
        os.killpg(process_id, signal.SIGKILL)
    for process in descendants:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def is_running(process_id: int) -> bool:
    """Whether it lives; a dead one that nobody has waited for does not."""
    try:
        return bool(psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def oom_kills() -> int:
    """How often the kernel killed for want of memory since it started; 0 where it does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


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
