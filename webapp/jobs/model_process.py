"""The process of one deployment: its folder, its start, its health, and what a page is told of it."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil

from webapp.config import InstallationSettings
from webapp.engine.weights.model import WEIGHTS
from webapp.serving.__main__ import UNLOADABLE
from webapp.serving.client import state_of
from webapp.serving.errors import Unavailable
from webapp.serving.model import ABOUT
from webapp.store.files import FileStore
from webapp.store.models import Deployment, DeploymentState

from .processes import child_environment, python
from .supervised_process import Service

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
            self._requests = 0
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
        try:
            self.changes["memory_bytes"] = psutil.Process(process.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return  # the next look finds out

    def _say(self, state: DeploymentState, reason: str | None) -> None:
        self.changes |= {"state": state, "reason": reason}
        if state is not DeploymentState.READY:
            self.changes |= {"memory_bytes": None, "pid": None}

    def _lay_out(self, row: Deployment, settings: InstallationSettings, files: FileStore) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        stages = {stage.name: stage.files for stage in row.run.stages}
        # all but the weights is small, and may belong to the tokenizer
        beside = {name: entry for name, entry in row.run.checkpoint.files.items() if name != WEIGHTS}
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
