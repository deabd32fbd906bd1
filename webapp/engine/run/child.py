"""The child process, `python -m webapp.engine.run.child JOB.json`: one piece of work, then gone.

The worker's jobs fork it. It speaks JSON lines on stdout (progress, log, point, and last `done` or `error`) and leaves
at once when its stdin closes, because then whoever started it is dead. Uploaded bytes are parsed here and nowhere else.
"""

from __future__ import annotations

import errno
import gc
import json
import math
import os
import resource
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from webapp.engine.errors import DiskFull, OutOfMemory, PareError
from webapp.engine.weights.memory import is_want_of_memory

DONE, FAILED = 0, 3
STACK_BYTES = 12 << 20  # of a thread, which counts as allocated before it is used
GARBAGE = 100_000  # new objects before it is collected


def preload(*modules: str) -> None:
    """Imports, once for all children that are forked afterwards, what each task needs, and these modules.

    Starts no thread, touches no GPU.
    """
    import torch

    from webapp.engine.importers import inspect

    from . import inspection, load_plugins

    assert torch
    assert inspect
    assert inspection
    load_plugins()
    for name in modules:
        import_module(name)


class Lines:
    """A report that writes JSON lines."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf8", buffering=1)
        os.dup2(2, 1)  # what a library prints goes to the log, not among the messages

    def send(self, message: dict[str, Any]) -> None:
        text = json.dumps(finite(message), allow_nan=False)
        if "\\ud" in text or "\\u0000" in text:  # which no database takes
            text = json.dumps(_storable(finite(message)), allow_nan=False)
        self._out.write(text + "\n")

    def progress(self, fraction: float, message: str = "") -> None:
        self.send({"progress": fraction, "message": message})

    def log(self, message: str) -> None:
        self.send({"log": message})

    def point(self, series: str, x: float, values: dict[str, float]) -> None:
        known = {name: value for name, value in values.items() if math.isfinite(value)}
        if known:
            self.send({"point": {"series": series, "x": x, "values": known}})


def finite(value: Any) -> Any:
    """JSON data as it is, but None for NaN and infinity, which JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def _storable(given: Any) -> Any:
    """Without zero bytes and halves of characters, which JSON, pickles and file names may hold."""
    if isinstance(given, str):
        return given.encode("utf8", "replace").decode().replace("\0", "\ufffd")
    if isinstance(given, dict):
        return {_storable(key): _storable(value) for key, value in given.items()}
    return [_storable(value) for value in given] if isinstance(given, list | tuple) else given


def main(job_file: str) -> int:
    lines = Lines()
    threading.Thread(target=leave_with_the_worker, daemon=True).start()
    job = json.loads(Path(job_file).read_text(encoding="utf8"))
    threads, foreseen = job.pop("threads", None), job.pop("foreseen_bytes", None)
    limit = job.pop("memory_limit_bytes", None)
    limit_memory(limit if limit is None or foreseen is None else limit + (threads or 1) * STACK_BYTES)
    try:
        lines.send({"done": _work(job, threads, foreseen, lines)})
    except PareError as error:
        lines.send({"error": error.as_dict()})
        return FAILED
    except (MemoryError, RuntimeError, OSError) as error:
        known = _known(error)
        if known is None:
            raise
        lines.send({"error": known.as_dict()})
        return FAILED
    return DONE


def _known(error: Exception) -> PareError | None:
    """The sentence for a machine that is out of memory or disk; None for what nobody foresaw."""
    if is_want_of_memory(error):
        return OutOfMemory(
            "The process ran out of memory. Give it more (the setting run_memory_limit_bytes, or --memory), or a "
            "smaller model."
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return DiskFull("The disk is full. Free some space where Pare keeps its files, then retry.")
    return None


def _work(job: dict[str, Any], threads: int | None, foreseen: int | None, lines: Lines) -> Any:
    """The task's facts. The imports are here because they take seconds, and the watch on stdin should not wait."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    task = job["task"]
    if task.startswith("inspect_"):
        from .inspection import InspectionJob, inspected

        gc.set_threshold(GARBAGE, 50, 50)  # the facts of 100,000 tensors are no garbage, however often one looks
        return inspected(InspectionJob.model_validate(job), lines, limit_memory)
    if task == "try_formats":
        signal.alarm(job["seconds"])  # which ends this process: then nothing is known
        from webapp.engine.exporters import unwritable
        from webapp.engine.exporters.sizes import beside
        from webapp.engine.facts import CheckpointFacts

        given = Path(job["folder"]), CheckpointFacts.model_validate(job["facts"])
        return {"unwritable": unwritable(*given), "beside": beside(*given)}
    if task == "look_at_structure":
        signal.alarm(job["seconds"])
        from webapp.engine.data.passing import pass_size
        from webapp.engine.facts import CheckpointFacts
        from webapp.engine.techniques.surgery import look_at

        facts = CheckpointFacts.model_validate(job["facts"])
        found, size = look_at(facts), pass_size(facts)
        return {"structure": found.model_dump(mode="json"), "pass_size": size and size.model_dump(mode="json")}
    if task == "profile":
        from .profile_job import ProfileJob
        from .profiling import profiled

        profile = ProfileJob.model_validate({name: value for name, value in job.items() if name != "task"})
        torch.manual_seed(profile.run.seed)
        return profiled(profile, lines).model_dump(mode="json")
    from .stages import StageJob, run_stage
    from .stages.base import COST

    stage = StageJob.model_validate({name: value for name, value in job.items() if name != "task"})
    torch.manual_seed(stage.run.seed)
    torch.set_deterministic_debug_mode("warn")
    start = time.monotonic()
    made = run_stage(stage, lines)
    return made | {COST: {"foreseen_bytes": foreseen, "peak_bytes": peak_bytes(), "seconds": time.monotonic() - start}}


def peak_bytes() -> int:
    """The most that this process has had in memory at once."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def leave_with_the_worker() -> None:
    while os.read(0, 1024):
        pass
    os._exit(FAILED)


def limit_memory(limit_bytes: int | None) -> None:
    """At most; a limit that is lower already stays."""
    if limit_bytes:
        _, now = resource.getrlimit(resource.RLIMIT_DATA)
        most = limit_bytes if now == resource.RLIM_INFINITY else min(limit_bytes, now)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    os._exit(status)  # no teardown: the answer is out
