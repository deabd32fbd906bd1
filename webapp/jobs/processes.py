"""Starting processes that do not outlive their parent, killing them whole, and learning what the kernel killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

PARENT_DEATH = Path(__file__).with_name("parent_death.py")
PACKAGE_PARENT = Path(__file__).parents[2]


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
