"""Supervises the child process that runs the engine: its messages in, its death survived, its whole group killed.

The child gets a session of its own, a job file as its argument and a stdin that stays open as long as the worker
lives. It answers in JSON lines on stdout; what it says on stderr goes to the worker's log.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from webapp.engine.errors import OUT_OF_MEMORY, OutOfMemory
from webapp.units import byte_text

from .errors import ChildDied, ChildFailed, Crashed, Stopped
from .fork_client import Forks
from .processes import kill_group, oom_kills

log = logging.getLogger(__name__)

ENGINE_CHILD = "webapp.engine.run.child"
HUB_CHILD = "webapp.hub.child"  # which alone opens connections to a hub
LAST_WORDS = 12  # lines of stderr that a failure's log repeats
LOG_LINES_AT_ONCE = 200
TRANSFORMERS = ("modeling_utils", "models.auto.modeling_auto", "models.auto.tokenization_auto")  # two seconds
TRACING = ("torch._dynamo",)  # a second, by whatever follows a model's operations
MEMORY_WORDS = (*OUT_OF_MEMORY, "memoryerror", "memory allocation of")  # the last is what Rust says
BLOCK_BYTES = 1 << 16
LONGEST_LINE_BYTES = 256 << 20  # the facts of a large model are one line; what is longer is cut


class LineReader:
    """Yields (name, line) from pipes given by name; UTF-8, broken bytes replaced."""

    def __init__(self, **pipes: IO[bytes]) -> None:
        self._selector = selectors.DefaultSelector()
        self._pending: dict[str, bytearray] = {}
        self.more = True  # whether the last read found something
        for name, pipe in pipes.items():
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, name)
            self._pending[name] = bytearray()

    @property
    def open(self) -> bool:
        return bool(self._selector.get_map())

    def read(self, wait_seconds: float) -> Iterator[tuple[str, str]]:
        """What has come by now, or within that time; the rest of a closed pipe counts as a line."""
        if not self.open:
            self.more = False
            time.sleep(wait_seconds and min(wait_seconds, 0.05))  # pipes closed, process about to end
            return
        ready = self._selector.select(wait_seconds)
        self.more = bool(ready)
        for key, _ in ready:
            yield from self._receive(key)

    def _receive(self, key: selectors.SelectorKey) -> Iterator[tuple[str, str]]:
        name, pipe = key.data, key.fileobj
        pending = self._pending[name]
        block = os.read(pipe.fileno(), BLOCK_BYTES)  # type: ignore[union-attr]
        if block:
            last = block.rfind(b"\n")  # in the new block only: a line may be long
            end = len(pending) + last if last >= 0 else -1
            pending += block
            if end < 0 and len(pending) < LONGEST_LINE_BYTES:
                return
            whole = bytes(pending[:end]) if end >= 0 else bytes(pending)
            del pending[: end + 1 if end >= 0 else len(pending)]
        else:
            self._selector.unregister(pipe)
            whole = bytes(pending)
            pending.clear()
            if not whole:
                return
        for line in whole.decode("utf8", "replace").split("\n"):
            yield name, line

    def __enter__(self) -> LineReader:
        return self

    def __exit__(self, *ignored: Any) -> None:
        self._selector.close()


class CurvePoint(NamedTuple):
    """Of a curve: `values` at `x`, each under what it measures."""

    series: str
    x: float
    values: dict[str, float]


class Tell(Protocol):
    """Is told the fraction of the stage that is done, what it does, new log lines and new points of its curves."""

    def __call__(
        self, fraction: float | None, message: str, lines: list[str], points: Sequence[CurvePoint] = (), /
    ) -> None: ...


@dataclass
class ChildSupervisor:
    """Runs one child at a time per call; `processes` are those alive now, of all threads.

    `entry` is the module that they run (see fork_server).
    """

    entry: str = ENGINE_CHILD
    threads: int = 1
    restarts: int = 3
    poll_seconds: float = 0.5
    tell_seconds: float = 0.5
    closing: threading.Event = field(default_factory=threading.Event)  # the worker ends: kill, and report nothing
    processes: set[int] = field(default_factory=set)
    forks: Forks = field(init=False)

    def __post_init__(self) -> None:
        self.forks = Forks(self.entry, self.threads)

    def run(self, job: Mapping[str, Any], folder: Path, tell: Tell, unwanted: Callable[[], bool]) -> Any:
        """Has the job done with `folder` for its files, and returns the child's facts.

        A job with `foreseen_bytes` is held to that much memory; where that was too little, or it crashed, it is done
        once more, with what the installation allows.

        `tell` is called at most every `tell_seconds`, `unwanted` every `poll_seconds`. Raises ChildFailed with the
        engine's own error, OutOfMemory, ChildDied, or Stopped when the work was unwanted.
        """
        foreseen, limit = job.get("foreseen_bytes"), job.get("memory_limit_bytes")
        if foreseen is None or (limit is not None and limit <= foreseen):
            return self._run(job, folder, tell, unwanted)
        try:
            return self._run({**job, "memory_limit_bytes": foreseen}, folder, tell, unwanted)
        except Crashed:
            why = f"It crashed, held to the {byte_text(foreseen)} that were foreseen"
        except (OutOfMemory, ChildFailed) as error:
            if error.code != OutOfMemory.code:
                raise
            why = f"It needed more than the {byte_text(foreseen)} that were foreseen"
        tell(None, "", [f"{why}; it is started again"])
        return self._run(job, folder, tell, unwanted)

    def _run(self, job: Mapping[str, Any], folder: Path, tell: Tell, unwanted: Callable[[], bool]) -> Any:
        def stop() -> bool:
            self.hold_if_closing()
            return unwanted()

        for attempt in range(self.restarts + 1):
            output = Path(job["output"])
            shutil.rmtree(output, ignore_errors=True)
            output.mkdir(parents=True)
            killed_for_memory = oom_kills()
            child = _Child(self, job, folder, stop)
            try:
                child.follow(tell, stop)
            finally:
                child.end()
                self.hold_if_closing()
            if child.answer is not None:
                return child.facts()
            if child.status != -signal.SIGKILL:
                raise child.death()
            if oom_kills() > killed_for_memory:
                raise out_of_memory()
            if attempt < self.restarts:
                tell(None, "", ["The computing process was killed from outside; it is started again"])
            log.warning(
                "The child of %s was killed from outside (%s of %s)", folder.name, attempt + 1, self.restarts + 1
            )
        raise ChildDied(
            f"The computing process was killed from outside (SIGKILL) {self.restarts + 1} times, and not for want "
            "of memory as far as the system tells. Find out what kills it, then retry."
        )

    def kill_all(self) -> None:
        """Kills every child and returns at once; to be called when the worker ends, after `closing` is set."""
        for process_id in tuple(self.processes):
            kill_group(process_id)
        self.forks.close()

    def rest(self) -> None:
        """To be called now and then: what was imported for children, and is not needed for a while, is given back."""
        if not self.processes:
            self.forks.rest(ready=self.entry != HUB_CHILD)

    def hold_if_closing(self) -> None:
        """When the worker ends, its threads stand still here, so that nothing they half did is recorded."""
        if self.closing.is_set():
            threading.Event().wait()


class _Child:
    def __init__(
        self, supervisor: ChildSupervisor, job: Mapping[str, Any], folder: Path, stop: Callable[[], bool]
    ) -> None:
        self.supervisor = supervisor
        self.answer: dict[str, Any] | None = None
        self.status: int | None = None
        self.last_words: deque[str] = deque(maxlen=LAST_WORDS)
        self._news = _News()
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        job_file = folder / "job.json"
        job_file.touch(mode=0o600)  # it may hold a token
        job_file.write_text(json.dumps(job), encoding="utf8")
        self.process = supervisor.forks.start(job_file, supervisor.poll_seconds, stop, imports_of(job))
        supervisor.processes.add(self.process.pid)

    def follow(self, tell: Tell, stop: Callable[[], bool]) -> None:
        """Returns when the child has ended; raises Stopped when it became unwanted."""
        supervisor, told_at, looked_at = self.supervisor, 0.0, time.monotonic()
        with LineReader(out=self.process.stdout, err=self.process.stderr) as reader:
            while (running := self.process.poll() is None) or reader.open:
                # the ended child's pipes may stay open in a grandchild: take what is there, then leave
                for source, line in reader.read(supervisor.poll_seconds if running else 0.0):
                    self._take(source, line)
                at = time.monotonic()
                if at - told_at >= supervisor.tell_seconds and self._news:
                    told_at = at
                    self._news.tell(tell)
                if running and at - looked_at >= supervisor.poll_seconds:
                    looked_at = at
                    if stop():
                        raise Stopped("the work is not wanted any more")
                if not running and not reader.more:
                    break
        self.status = self.process.wait()
        if self._news:
            self._news.tell(tell)

    def end(self) -> None:
        """Leaves no process of the child's group behind."""
        kill_group(self.process.pid)
        self.process.wait()
        self.supervisor.forks.ended()
        self.supervisor.processes.discard(self.process.pid)
        self.process.close()

    def facts(self) -> Any:
        assert self.answer is not None
        if error := self.answer.get("error"):
            raise ChildFailed(str(error.get("code", "error")), str(error.get("message", "")), error.get("field"))
        if self.status != 0:
            raise self.death()
        return self.answer["done"]

    def death(self) -> ChildDied | OutOfMemory:
        """The error for a child that ended on its own without an answer."""
        words = "\n".join(self.last_words)
        log.error("The child ended with status %s; its last words:\n%s", self.status, words)
        if any(word in words.lower() for word in MEMORY_WORDS):
            return out_of_memory()
        assert self.status is not None
        how = f"the signal {signal.Signals(-self.status).name}" if self.status < 0 else f"the exit status {self.status}"
        last = next((line for line in reversed(self.last_words) if line.strip()), "")
        kind = Crashed if self.status < 0 else ChildDied
        return kind(
            f"The computing process ended with {how} before it was done"
            + (f"; its last words: {last.strip()[:300]}" if last else ". It said nothing")
            + ". The worker's log has more."
        )

    def _take(self, source: str, line: str) -> None:
        if source == "err":
            self.last_words.append(line)
            log.info("child: %s", line)
            return
        try:
            message = json.loads(line, parse_constant=lambda _: None)  # NaN is no JSON: databases refuse it
        except ValueError:
            message = None
        if not isinstance(message, dict):
            log.info("child: %s", line[:500])
        elif "done" in message or "error" in message:
            self.answer = message
        else:
            self._news.add(message)


@dataclass
class _News:
    """What the child said since it was last passed on."""

    fraction: float | None = None
    message: str = ""
    lines: list[str] = field(default_factory=list)
    left_out: int = 0
    points: list[CurvePoint] = field(default_factory=list)

    def __bool__(self) -> bool:
        return self.fraction is not None or bool(self.lines) or bool(self.points)

    def add(self, message: dict[str, Any]) -> None:
        if isinstance(fraction := message.get("progress"), int | float):
            self.fraction = min(1.0, max(0.0, fraction))
            self.message = str(message.get("message") or self.message)
        if (point := _point(message.get("point"))) is not None:
            self.points.append(point)
        if "log" in message:
            if len(self.lines) < LOG_LINES_AT_ONCE:
                self.lines.append(str(message["log"]).replace("\0", "")[:2000])
            else:
                self.left_out += 1

    def tell(self, tell: Tell) -> None:
        left_out = [f"… {self.left_out} lines left out"] if self.left_out else []
        tell(self.fraction, self.message[:500].replace("\0", ""), self.lines + left_out, self.points)
        self.fraction, self.lines, self.left_out, self.points = None, [], 0, []


def imports_of(job: Mapping[str, Any]) -> Sequence[str]:
    """Modules that the job's child needs, as far as the job tells, and whose import takes longer than most jobs."""
    from webapp.engine.exporters import measured
    from webapp.engine.run.stages import format_of

    given = [job, *(job.get(name) or {} for name in ("checkpoint", "teacher_checkpoint"))]
    families = {((one.get("facts") or {}).get("architecture") or {}).get("family") for one in given}
    inspects = job.get("task") == "inspect_checkpoint"
    of_hub = inspects and (job["filename"].lower().endswith((".zip", ".gguf")) or os.path.isdir(job.get("upload", "")))
    if of_hub or "transformers" in families:
        return [f"transformers.{name}" for name in TRANSFORMERS]
    traces = job.get("task") in ("look_at_structure", "try_formats") or "program" in families
    return TRACING if traces or format_of(job.get("stage", "")) not in (None, measured().name) else ()


def _point(given: Any) -> CurvePoint | None:
    """The point in a message; None for what is none."""
    if not isinstance(given, dict) or not isinstance(given.get("values"), dict):
        return None
    x, values = given.get("x"), given["values"]
    if not all(isinstance(number, int | float) for number in (x, *values.values())):
        return None
    return CurvePoint(
        str(given.get("series"))[:80].replace("\0", ""), float(x), {str(name)[:80]: v for name, v in values.items()}
    )


def out_of_memory() -> OutOfMemory:
    return OutOfMemory(
        "The computing process ran out of memory and was ended; the worker goes on. Use a machine with more "
        "memory, raise run_memory_limit_bytes if there is more, or compress a smaller checkpoint."
    )
