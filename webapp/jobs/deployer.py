"""Keeps the processes of the deployments of this machine as the database wants them: started, answering, or gone.

It is a process beside the workers. What requests want stands in the rows; every look makes what is there equal to it,
so that nothing has to be told to anybody, and after a restart all is as before. A process ends with the deployer, also
by kill -9; the deployer ends with Pare.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import signal
import tempfile
import threading
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from webapp.config import InstallationSettings
from webapp.store.database import make_engine, make_sessions, upgrade, writing
from webapp.store.errors import StoreError
from webapp.store.files import FileStore
from webapp.store.models import Deployment, DeploymentState, now

from .model_process import ModelProcess
from .workplace import file_store

log = logging.getLogger(__name__)

TICK_SECONDS = 0.25
TRYOUT_SECONDS = 300.0  # the model of a try-out ends when nobody has asked for so long
ADDED_UP = ("requests", "deaths")


def run_deployer(settings: InstallationSettings) -> None:
    """Works until SIGTERM or SIGINT. A second one of the same installation waits until the first has ended."""
    engine = make_engine(settings.database_url)
    upgrade(engine)
    told_to_stop = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        told_to_stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with (settings.instance / "deployer.lock").open("a+") as lock:
        while not _locked(lock):
            if told_to_stop.wait(TICK_SECONDS):
                return
        sockets = _fresh_folder(lock)
        deployer = Deployer(settings, make_sessions(engine), file_store(settings), sockets)
        log.info("The deployer is ready")
        try:
            while not told_to_stop.wait(TICK_SECONDS):
                deployer.look()
        finally:
            deployer.end()
            shutil.rmtree(sockets, ignore_errors=True)


class Deployer:
    def __init__(
        self, settings: InstallationSettings, sessions: sessionmaker[Session], files: FileStore, sockets: Path
    ) -> None:
        self._settings, self._sessions, self._files, self._sockets = settings, sessions, files, sockets
        self._served: dict[str, ModelProcess] = {}
        self._failed: dict[str, int] = {}  # the attempt of each that is not tried again
        shutil.rmtree(settings.work / "deployments", ignore_errors=True)

    def look(self) -> None:
        """Makes what is there equal to what is wanted. What goes wrong is logged, and looked at again."""
        try:
            with self._sessions() as session:
                mine = select(Deployment).where(Deployment.machine == self._settings.machine)
                rows = {row.id: row for row in session.scalars(mine)}
                for id in self._served.keys() - rows.keys():
                    self._served.pop(id).end()
                for row in rows.values():
                    self._keep(row)
        except OperationalError as error:
            log.warning("The database does not answer: %s", error)
        except Exception:
            log.exception("A deployment could not be looked after; the next look tries again")

    def end(self) -> None:
        """The processes end; the rows stay as they are wanted."""
        for served in self._served.values():
            served.end()

    def _keep(self, row: Deployment) -> None:
        if row.token_hash is None and now() - row.asked_at > timedelta(seconds=TRYOUT_SECONDS):
            self._forget(row)
            return
        served = self._served.get(row.id)
        if served is not None and (not row.wanted or served.attempt != row.attempt):
            self._served.pop(row.id).end()
            served = None
        if not row.wanted:
            if row.state is not DeploymentState.STOPPED:
                self._note(row, _over(DeploymentState.STOPPED, None))
            return
        if self._failed.get(row.id) == row.attempt:
            return
        if served is None:
            try:
                served = self._served[row.id] = ModelProcess(row, self._settings, self._files, self._sockets)
            except StoreError as error:
                self._fail(row, error.message)
                return
            self._note(row, {**_over(DeploymentState.STARTING, None), "socket": str(served.socket)})
        changes = served.tend()
        if changes.get("state") is DeploymentState.FAILED:
            self._served.pop(row.id).end()
            self._fail(row, changes["reason"])
        elif changes:
            self._note(row, changes)

    def _fail(self, row: Deployment, reason: str) -> None:
        log.warning("The model %s cannot be served: %s", row.name, reason)
        self._failed[row.id] = row.attempt
        self._note(row, _over(DeploymentState.FAILED, reason))

    def _note(self, row: Deployment, changes: dict[str, Any]) -> None:
        """Into the row, unless it was deleted or asked for anew meanwhile."""
        with writing(self._sessions) as session:
            found = session.get(Deployment, row.id, with_for_update=True)
            if found is None or found.attempt != row.attempt:
                return
            for name, value in changes.items():
                setattr(found, name, getattr(found, name) + value if name in ADDED_UP else value)
            if changes.get("state") is DeploymentState.READY:
                found.ready_at = now()

    def _forget(self, row: Deployment) -> None:
        if served := self._served.pop(row.id, None):
            served.end()
        with writing(self._sessions) as session:
            if found := session.get(Deployment, row.id):
                session.delete(found)


def _over(state: DeploymentState, reason: str | None) -> dict[str, Any]:
    """What a row says whose process does not run."""
    gone = dict.fromkeys(("pid", "socket", "memory_bytes", "ready_at"))
    return {"state": state, "reason": reason, **gone}


def _locked(lock: Any) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _fresh_folder(lock: Any) -> Path:
    """For the sockets, whose paths must be short. The lock keeps its name: what an earlier life left is removed."""
    lock.seek(0)
    earlier = lock.read().strip()
    if earlier and Path(earlier).parent == Path(tempfile.gettempdir()) and Path(earlier).name.startswith("pare-"):
        shutil.rmtree(earlier, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix="pare-")  # of this user alone
    lock.truncate(0)
    lock.write(folder)
    lock.flush()
    return Path(folder)
