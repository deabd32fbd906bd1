"""Keeps the processes of the deployments of this machine as the database wants them: started, answering, or gone.

It is a process beside the workers. What requests want stands in the rows; every look makes what is there equal to it,
so that nothing has to be told to anybody, and after a restart all is as before. A process ends with the deployer, also
by kill -9; the deployer ends with Pare. Where nothing is deployed it holds little: what needs numpy is imported later.
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import signal
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil
from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from webapp.config import InstallationSettings
from webapp.serving import ABOUT, UNLOADABLE
from webapp.serving.errors import Unavailable
from webapp.store.clock import now
from webapp.store.database import make_engine, make_sessions, upgrade, writing
from webapp.store.errors import StoreError
from webapp.store.files import FileStore
from webapp.store.models import KEPT_MINUTES, Deployment, DeploymentMinute, DeploymentState, Replay, RunState

from .processes import Service, child_environment, python
from .workplace import file_store

if TYPE_CHECKING:
    from .replays import ReplayRunner

log = logging.getLogger(__name__)

TICK_SECONDS = 0.25
TRYOUT_SECONDS = 300.0  # the model of a try-out ends when nobody has asked for so long
ADDED_UP = ("requests", "deaths")
FALSE_STARTS = 3  # so often may the process die before it ever answered
LOOK_SECONDS = 1.0  # between two looks at a process that answers
PATIENCE_SECONDS = 2.0  # for an answer to a look
SILENT_LOOKS = 10  # without an answer: the process hangs and is killed
OOM_SCORE = 500  # the kernel takes its memory before the web server's, and after a compressing child's


class ModelProcess:
    """`changes` are what the deployment's row is to say. Raises StoreError where a file of it is missing."""

    def __init__(self, row: Deployment, settings: InstallationSettings, files: FileStore, sockets: Path) -> None:
        self.id, self.attempt = row.id, row.attempt
        self.folder = settings.work / "deployments" / row.id
        self.socket = sockets / row.id
        self.changes: dict[str, Any] = {}
        self._ready, self._requests, self._silent, self._look_at = False, 0, 0, 0.0
        self._ever_ready = False
        self._minutes: dict[int, int] = {}  # the requests of each minute, as the row has them
        self._lay_out(row, settings, files)
        self.service = Service(
            f"model {row.name}",
            python("-m", "webapp.serving", str(self.folder), str(self.socket)),
            child_environment(settings.threads(settings.workers)) | {"TMPDIR": str(self.folder)},
            signal_at_death=signal.SIGKILL,
            oom_score=OOM_SCORE,
            errors=self.folder / "errors.log",
        )

    def tend(self) -> dict[str, Any]:
        """Starts the process where it is not there, looks whether it answers, and returns what the row is to say."""
        self.changes = {}
        before = self.service.process
        if before is None or before.poll() is not None:
            self._has_ended(before is not None)
        elif time.monotonic() >= self._look_at:
            self._look()
        return self.changes

    def end(self) -> None:
        self.service.end()
        self.socket.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _has_ended(self, just_now: bool) -> None:
        if just_now:
            self._ready = False
            words = self._last_words()
            self.service.keep_alive()  # which notes the status and the pause until the next start
            self._requests, self._minutes = 0, {}
            hopeless = self.service.status == UNLOADABLE or self.service.starts >= FALSE_STARTS
            if hopeless and not self._ever_ready:
                self._say(DeploymentState.FAILED, words or "The process ended before it answered.")
                return
            how = f"Its process ended ({_ending(self.service.status)}); it is started again."
            self._say(DeploymentState.STARTING, how)
            self.changes["deaths"] = 1
            return
        self.socket.unlink(missing_ok=True)
        self.service.keep_alive()
        if self.service.process is not None:
            self.changes |= {"pid": self.service.process.pid, "socket": str(self.socket)}
            self._silent = 0

    def _look(self) -> None:
        from webapp.serving.client import state_of

        process = self.service.process
        assert process is not None
        if not self.socket.exists():
            return  # it loads its model
        self._look_at = time.monotonic() + LOOK_SECONDS
        try:
            found = state_of(str(self.socket), PATIENCE_SECONDS)
        except Unavailable:
            self._silent += 1
            if self._silent >= SILENT_LOOKS:
                self.service.end()
                self._ready = False
                self._say(DeploymentState.STARTING, "Its process did not answer any more; it is started again.")
                self.changes["deaths"] = 1
            return
        self._silent = 0
        if not self._ready:
            self._ready = self._ever_ready = True
            self._say(DeploymentState.READY, None)
            self.changes["signature"] = found["signature"]
        if found["requests"] != self._requests:
            self.changes["requests"] = found["requests"] - self._requests
            self._requests = found["requests"]
        if fresh := [each for each in found["minutes"] if self._minutes.get(each["minute"]) != each["requests"]]:
            self.changes["minutes"] = [{**each, "started_at": found["started_at"]} for each in fresh]
            self._minutes = {each["minute"]: each["requests"] for each in found["minutes"]}
        try:
            self.changes["memory_bytes"] = psutil.Process(process.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return  # the next look finds out

    def _say(self, state: DeploymentState, reason: str | None) -> None:
        self.changes |= {"state": state, "reason": reason}
        if state is not DeploymentState.READY:
            self.changes |= {"memory_bytes": None, "pid": None}

    def _lay_out(self, row: Deployment, settings: InstallationSettings, files: FileStore) -> None:
        from webapp.engine.weights.originals import is_weights

        shutil.rmtree(self.folder, ignore_errors=True)
        stages = {stage.name: stage.files for stage in row.run.stages}
        # all but the weights is small, and may belong to the tokenizer
        beside = {name: entry for name, entry in row.run.checkpoint.files.items() if not is_weights(name)}
        files.materialise(beside | stages.get(row.stage, {}), self.folder)
        about = {**row.about, "name": row.name, "model": row.artifact, "threads": settings.threads(settings.workers)}
        (self.folder / ABOUT).write_text(json.dumps(about), encoding="utf8")

    def _last_words(self) -> str:
        path = self.folder / "errors.log"
        lines = path.read_text(encoding="utf8", errors="replace").splitlines() if path.exists() else []
        return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "")


def _ending(status: int | None) -> str:
    if status is None or status >= 0:
        return f"exit status {status}"
    return f"signal {signal.Signals(-status).name}"


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
        self._replays: ReplayRunner | None = None  # once there is something to replay
        shutil.rmtree(settings.work / "deployments", ignore_errors=True)

    def look(self) -> None:
        """Makes what is there equal to what is wanted. What goes wrong is logged, and looked at again."""
        try:
            with self._sessions() as session:
                replays = self._waiting_replays(session)
                mine = select(Deployment).where(Deployment.machine == self._settings.machine)
                rows = {row.id: row for row in session.scalars(mine)}
                for id in self._served.keys() - rows.keys():
                    self._served.pop(id).end()
                for row in rows.values():
                    self._keep(row)
            self._replay(replays)  # now that what an earlier life left in the rows is not there any more
        except OperationalError as error:
            log.warning("The database does not answer: %s", error)
        except Exception:
            log.exception("A deployment could not be looked after; the next look tries again")

    def end(self) -> None:
        """The processes end; the rows stay as they are wanted."""
        if self._replays is not None:
            self._replays.end()
        for served in self._served.values():
            served.end()

    def _waiting_replays(self, session: Session) -> list[tuple[str, int]]:
        """Ids and attempts, the oldest first. What they try is kept from being forgotten meanwhile."""
        under_way = Replay.state.in_((RunState.QUEUED, RunState.RUNNING))
        mine = select(Replay).join(Replay.deployment).where(under_way, Deployment.machine == self._settings.machine)
        rows = session.scalars(mine.order_by(Replay.created_at, Replay.id)).all()
        for row in rows:
            beside = row.beside
            if beside is not None and now() - beside.asked_at > timedelta(seconds=TRYOUT_SECONDS / 5):
                self._note(beside, {"asked_at": now()})
        return [(row.id, row.attempt) for row in rows]

    def _replay(self, waiting: list[tuple[str, int]]) -> None:
        if waiting and self._replays is None:
            from .replays import ReplayRunner

            self._replays = ReplayRunner(self._settings, self._sessions, self._files)
        if self._replays is not None:
            self._replays.look(waiting)

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
            for minute in changes.pop("minutes", ()):
                session.merge(DeploymentMinute(deployment_id=row.id, **minute))
                old = (
                    DeploymentMinute.deployment_id == row.id,
                    DeploymentMinute.minute <= minute["minute"] - KEPT_MINUTES,
                )
                session.execute(delete(DeploymentMinute).where(*old))
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
