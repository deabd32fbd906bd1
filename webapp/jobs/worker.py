"""A worker process: takes work out of the queues until it is told to stop."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import IO

from dbos import DBOS
from sqlalchemy.exc import OperationalError

from webapp.config import InstallationSettings
from webapp.engine.run import load_plugins
from webapp.store.database import make_engine, make_sessions, upgrade
from webapp.store.digests import sweep
from webapp.store.space import HUB, UPLOADS, remove_idle_folders

from .abilities import Abilities
from .child import ENGINE_CHILD
from .client import JobClient
from .heartbeat import Heartbeat
from .inspections import look_at_structures
from .processes import is_running
from .queues import APPLICATION_NAME, APPLICATION_VERSION, INSPECTIONS, TRANSFERS, migrate_jobs, own_queue
from .recovery import requeue, sweep_scratch, take_over
from .studies import advance_studies
from .taking import take, tell_waiting
from .webhooks import Messenger, forget_old
from .workflows import work_at
from .workplace import Workplace

log = logging.getLogger(__name__)

LOST_SIGHT = 75  # exit status of a worker that was taken for dead
CHILDREN_GONE_SECONDS = 3.0


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


def remove_leftovers(settings: InstallationSettings) -> None:
    """Of workers of this installation that were killed, and after which none took the same slot."""
    for folder in settings.work.glob("*-*"):
        lock_file = settings.instance / "workers" / f"{folder.name.rpartition('-')[2]}.lock"
        if not lock_file.exists():
            continue
        if (lock := _locked(lock_file)) is not None or not folder.name.startswith(f"{settings.machine}-"):
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            lock.close()


def _locked(path: Path) -> IO[str] | None:
    lock = path.open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def run_worker(settings: InstallationSettings, *, entry: str = ENGINE_CHILD) -> None:
    """Works until SIGTERM or SIGINT, then ends the process: the child is killed and its run taken up again later."""
    slot = WorkerSlot.claim(settings)
    engine = make_engine(settings.database_url)
    upgrade(engine)
    place = Workplace.of(settings, slot.executor_id, make_sessions(engine), entry)
    shutil.rmtree(place.folder, ignore_errors=True)
    worker = RunWorker(place, JobClient(settings, engine))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, worker.on_signal)
    worker.work()


class RunWorker:
    def __init__(self, place: Workplace, jobs: JobClient) -> None:
        self.place, self.jobs = place, jobs
        self.able = Abilities.here(place.settings)
        self.heartbeat = Heartbeat(place.sessions, place.executor_id, self.able.kept())
        self.messenger = Messenger(place)
        self._told_to_stop = threading.Event()
        self._next: dict[str, float] = {}
        self._sweeping, self._studying, self._telling = (threading.Thread() for _ in range(3))
        self._missed: dict[str, float] = {}

    def work(self) -> None:
        """Does not return."""
        self.place.children.forks.prepare()
        load_plugins()
        self.heartbeat.start()
        self._launch()
        threading.Thread(target=self._take, daemon=True).start()
        log.info("Worker %s is ready (process %s)", self.place.executor_id, os.getpid())
        settings = self.place.settings
        while not self._told_to_stop.wait(min(settings.heartbeat_seconds, 1.0)):
            try:
                if self._is_due("beat", settings.heartbeat_seconds) and not self.heartbeat.beat():
                    log.error("Others took this worker for dead and have its work; it ends")
                    self._leave(LOST_SIGHT)
                if self._is_due("recover", settings.heartbeat_seconds * 2):
                    self._missed = take_over(self.place, self._missed)
                    requeue(self.place, self.jobs)
                    tell_waiting(self.place)
                if not self._studying.is_alive():
                    self._studying = threading.Thread(target=self._study, daemon=True)  # budgets may take a second
                    self._studying.start()
                if not self._telling.is_alive():
                    self._telling = threading.Thread(target=self._tell, daemon=True)  # a slow database delays no beat
                    self._telling.start()
                for supervisor in (self.place.children, self.place.hub):
                    supervisor.rest()
                if self._is_due("sweep", settings.sweep_interval_seconds) and not self._sweeping.is_alive():
                    self._sweeping = threading.Thread(target=self._sweep, daemon=True)  # a slow store delays no beat
                    self._sweeping.start()
            except OperationalError as error:
                log.warning("The database does not answer: %s", error)
            except Exception:
                log.exception("Keeping house failed; the worker goes on")
        self._leave(0)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self._told_to_stop.set()

    def _launch(self) -> None:
        settings = self.place.settings
        work_at(self.place)
        migrate_jobs(settings)
        DBOS(
            config={
                "name": APPLICATION_NAME,
                "system_database_engine": make_engine(settings.jobs_database_url, tells_time=False),
                "executor_id": self.place.executor_id,
                "application_version": APPLICATION_VERSION,
                "log_level": "WARNING",
            }
        )
        inspections, mine = max(1, settings.inspections_at_once), own_queue(self.place.executor_id)
        listens = {mine: 1, INSPECTIONS: inspections, TRANSFERS: inspections}
        DBOS.listen_queues(list(listens))
        DBOS.launch()
        for queue, at_once in listens.items():
            DBOS.register_queue(queue, worker_concurrency=at_once, polling_interval_sec=settings.queue_poll_seconds)

    def _leave(self, status: int) -> None:
        """Ends the process without a word to DBOS: what was in progress stays so, and is taken up again."""
        supervisors = (self.place.children, self.place.hub)
        for supervisor in supervisors:
            supervisor.closing.set()
            supervisor.kill_all()
        if status == 0:
            self.heartbeat.stop()
        deadline = time.monotonic() + CHILDREN_GONE_SECONDS
        while time.monotonic() < deadline and any(any(map(is_running, tuple(each.processes))) for each in supervisors):
            for supervisor in supervisors:
                supervisor.kill_all()
            time.sleep(0.02)
        shutil.rmtree(self.place.folder, ignore_errors=True)
        log.info("Worker %s has ended", self.place.executor_id)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def _take(self) -> None:
        while not self._told_to_stop.wait(self.place.settings.queue_poll_seconds):
            try:
                take(self.place, self.able)
            except OperationalError as error:
                log.warning("Nothing could be taken out of the queue: %s", error)
            except Exception:
                log.exception("Nothing could be taken out of the queue; it is tried again")

    def _study(self) -> None:
        try:
            advance_studies(self.place, self.jobs)
        except OperationalError as error:
            log.warning("Studies could not be looked at: %s", error)

    def _tell(self) -> None:
        try:
            self.messenger.look()
        except OperationalError as error:
            log.warning("Webhooks could not be looked at: %s", error)
        except Exception:
            log.exception("Webhooks could not be looked at; it is tried again")

    def _sweep(self) -> None:
        try:
            look_at_structures(self.place)
            sweep_scratch(self.place)
            forget_old(self.place)
            remove_leftovers(self.place.settings)
            for kept in (UPLOADS, HUB):
                remove_idle_folders(self.place.settings.work / kept, self.place.settings.sweep_age_seconds)
            with self.place.sessions() as session:
                swept = sweep(session, self.place.files, self.place.settings.sweep_age_seconds)
        except Exception:
            log.exception("Sweeping failed; it is tried again later")
            return
        if swept:
            log.info("%s files that nothing refers to were deleted", swept)

    def _is_due(self, task: str, every_seconds: float) -> bool:
        at = time.monotonic()
        if at < self._next.get(task, 0.0):
            return False
        self._next[task] = at + every_seconds
        return True
