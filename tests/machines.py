"""Machines for the tests: folders of their own, and in common a PostgreSQL and an S3 server, each its own process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from tests.object_store import object_store_process
from tests.pare_process import QUICK, Served, serving
from tests.postgresql import fresh_database
from webapp.store.database import make_engine, make_sessions
from webapp.store.files import FileStore

CLOCK = Path(__file__).with_name("clock_ahead.c")
ENDED_WITHIN_SECONDS = 30


class Machine:
    """`ahead_seconds` is what its clock shows too much."""

    def __init__(self, folder: Path, settings: dict[str, str], ahead_seconds: int = 0) -> None:
        self.folder, self.workers = folder, list[subprocess.Popen[bytes]]()
        folder.mkdir(parents=True)
        self.log = (folder / "workers.log").open("ab")
        self.environment = os.environ | {f"PARE_{name.upper()}": value for name, value in settings.items()}
        if ahead_seconds:
            self.environment |= {"LD_PRELOAD": str(compiled(CLOCK, folder)), "SECONDS_AHEAD": str(ahead_seconds)}

    def start_worker(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "webapp.cli", "worker", "--instance", str(self.folder)]
        worker = subprocess.Popen(
            command, env=self.environment, stdout=self.log, stderr=self.log, cwd=self.folder, start_new_session=True
        )
        self.workers.append(worker)
        return worker

    @property
    def alive(self) -> list[subprocess.Popen[bytes]]:
        return [worker for worker in self.workers if worker.poll() is None]

    def said(self) -> str:
        """What the workers have logged."""
        return (self.folder / "workers.log").read_text(errors="replace")

    def end(self) -> None:
        """Tells its workers to end, as an operator does."""
        for worker in self.alive:
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            try:
                worker.wait(ENDED_WITHIN_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()

    def left_behind(self) -> list[str]:
        """The files in its working folder."""
        work = self.folder / "work"
        return sorted(str(path.relative_to(work)) for path in work.rglob("*") if path.is_file())


class Machines:
    """`served` is the web server, on a machine where nothing is computed."""

    def __init__(
        self, machines: list[Machine], served: Served, database_url: str, files_url: str, copies: Path
    ) -> None:
        self.machines, self.served, self.files_url = machines, served, files_url
        self.files = FileStore(files_url, copies)
        self.engine = make_engine(database_url)
        self.sessions = make_sessions(self.engine)

    @property
    def alive(self) -> list[subprocess.Popen[bytes]]:
        return [worker for machine in self.machines for worker in machine.alive]

    def said(self) -> str:
        return "\n".join(machine.said() for machine in self.machines)


def compiled(source: Path, folder: Path) -> Path:
    """The library that is made of it. Skips the test where there is no C compiler."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("there is no C compiler (cc), by which one machine's clock is made wrong")
    library = folder / f"{source.stem}.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@contextmanager
def machines(folder: Path, ahead_seconds: tuple[int, ...], **settings: str) -> Iterator[Machines]:
    """As many machines as clocks are given, none of which works yet."""
    with ExitStack() as closing:
        store = closing.enter_context(object_store_process())
        shared = {
            "database_url": fresh_database(),
            "files_url": store.bucket(uuid4().hex),
            "secret_key": uuid4().hex,
            "threads_per_child": "1",
        }
        given = QUICK | shared | settings
        served = closing.enter_context(serving(folder / "web", workers="0", **given))
        found = Machines(
            [Machine(folder / f"machine-{n}", given, ahead) for n, ahead in enumerate(ahead_seconds, 1)],
            served,
            shared["database_url"],
            shared["files_url"],
            folder / "copies",
        )
        closing.callback(found.engine.dispose)
        for machine in found.machines:
            closing.callback(machine.log.close)
            closing.callback(machine.end)
        yield found
