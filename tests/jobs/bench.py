"""An installation to try jobs on: its rows, its files, and workers that can be started and killed."""

import atexit
import contextlib
import io
import json
import os
import signal
import sqlite3
from pathlib import Path

import psutil
from sqlalchemy import select

from tests.patience import until
from webapp.config import InstallationSettings
from webapp.jobs.client import JobClient
from webapp.jobs.fork_client import Fork, Forks
from webapp.jobs.workplace import file_store
from webapp.store.database import make_engine, make_sessions, upgrade
from webapp.store.models import Checkpoint, Dataset, LogLine, Profile, Run, UploadState

QUICK = {  # so that a test waits no longer than it must
    "queue_poll_seconds": "0.1",
    "cancel_poll_seconds": "0.1",
    "progress_interval_seconds": "0.05",
    "heartbeat_seconds": "0.3",
    "worker_stale_seconds": "4",
    "timing_seconds": "0.1",
}
GIGABYTE = 10**9
FORKS = Forks("tests.jobs.forked_module", threads=1)  # a worker is imported once, and started in milliseconds
atexit.register(FORKS.close)
FACTS = {"format": "scripted", "tensors": [], "layers": [], "weights_bytes": 0}
CAST = {"version": 2, "steps": [{"technique": "cast"}]}


class Bench:
    """`worker` is the module whose worker is started, and its arguments; it gets the instance as its last one."""

    def __init__(self, instance: Path, *worker: str, **settings: str) -> None:
        self.settings = InstallationSettings.load(instance, **(QUICK | settings))
        self.environment = {f"PARE_{name.upper()}": value for name, value in (QUICK | settings).items()}
        self.worker = [*worker, str(instance)]
        self.engine = make_engine(self.settings.database_url)
        upgrade(self.engine)
        self.sessions = make_sessions(self.engine)
        self.files = file_store(self.settings)
        self.jobs = JobClient(self.settings, self.engine)
        self.workers: list[Fork] = []
        self.log = (instance / "workers.log").open("ab")

    def start_worker(self) -> Fork:
        job, environment = self.settings.instance / f"job-{len(self.workers)}.json", os.environ | self.environment
        job.write_text(json.dumps({"command": self.worker, "environment": environment, "log": self.log.name}))
        worker = FORKS.start(job, 1.0, lambda: False)
        self.workers.append(worker)
        return worker

    def end(self, worker: Fork, by: signal.Signals = signal.SIGKILL) -> int:
        """The exit status, once it has ended."""
        if worker.poll() is None:
            os.kill(worker.pid, by)
        return worker.wait()

    def freeze(self, worker: Fork) -> None:
        """Stops it, until SIGCONT, where it does not hold the lock of the database, for which all others would wait."""

        def without_the_lock() -> bool:
            os.kill(worker.pid, signal.SIGSTOP)
            until(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED)
            try:
                with contextlib.closing(sqlite3.connect(str(self.engine.url.database), timeout=0.5)) as database:
                    database.execute("BEGIN IMMEDIATE")
                return True
            except sqlite3.OperationalError:
                os.kill(worker.pid, signal.SIGCONT)
                return False

        self.until(without_the_lock)

    def upload(self, kind: str, filename: str, content: bytes) -> str:
        digest, size_bytes = self.files.receive(io.BytesIO(content), 10**9)
        with self.sessions.begin() as session:
            row = (Checkpoint if kind == "checkpoint" else Dataset)(
                name=filename, filename=filename, size_bytes=size_bytes, digest=digest
            )
            session.add(row)
        self.jobs.enqueue_inspection(kind, row.id)
        return row.id

    def script(self, *script: object, facts: object = None) -> bytes:
        return json.dumps({"script": script, "facts": facts or {}}).encode()

    def checkpoint(self) -> str:
        """One that is ready, without an inspection."""
        with self.sessions.begin() as session:
            row = Checkpoint(
                name="c", filename="c", size_bytes=1, digest="0" * 64, state=UploadState.READY, facts=FACTS
            )
            session.add(row)
        return row.id

    def run(self, script: object, checkpoint_id: str | None = None, queue: bool = True, **changed: object) -> str:
        """A run of this script (see scripted_worker), or of what is `changed`."""
        given = {"recipe": CAST, "preprocessing": script} | changed
        with self.sessions.begin() as session:
            row = Run(name="r", checkpoint_id=checkpoint_id or self.checkpoint(), **given)
            session.add(row)
        if queue:
            self.jobs.enqueue_run(row.id)
        return row.id

    def profile(self, *script: object, queue: bool = True, ledger: Path | None = None, **changed: object) -> str:
        """A profile of this script."""
        given = {"preprocessing": {"profile": script, "ledger": str(ledger) if ledger else None}, "key": "k"} | changed
        with self.sessions.begin() as session:
            row = Profile(checkpoint_id=self.checkpoint(), **given)
            session.add(row)
        if queue:
            self.jobs.enqueue_profile(row.id)
        return row.id

    def get(self, table: type, id: str):
        with self.sessions() as session:
            row = session.get(table, id)
            if table is Run and row is not None:
                _ = row.stages, row.artifacts
            if table is Profile and row is not None:
                _ = row.facts
            return row

    def lines(self, run_id: str) -> list[str]:
        with self.sessions() as session:
            return list(session.scalars(select(LogLine.text).where(LogLine.run_id == run_id).order_by(LogLine.id)))

    def until(self, what):
        """Waits for a truth; returns it."""
        return until(what, said=lambda: f"the workers said:\n{self.said()[-3000:]}")

    def said(self) -> str:
        """What the workers have logged."""
        return Path(self.log.name).read_text()

    def ended(self, id: str, table: type = Run):
        self.until(lambda: self.get(table, id).state.final)
        return self.get(table, id)

    def inspected(self, table: type, id: str):
        self.until(lambda: self.get(table, id).state != UploadState.INSPECTING)
        return self.get(table, id)

    def children(self) -> list[psutil.Process]:
        """The compressing processes that live, of this installation."""
        here, found = str(self.settings.work), []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd().startswith(here) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def close(self) -> None:
        for worker in self.workers:
            self.end(worker)
            worker.close()
        self.jobs.close()
        self.engine.dispose()
        self.log.close()
