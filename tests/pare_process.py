"""A real Pare for the tests: `pare serve` as a process of its own, on a port that it picks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.patience import PATIENCE_SECONDS

QUICK = {"timing_seconds": "0.1"}
READY = "Pare is ready at "
ENDED_WITHIN_SECONDS = 30


@dataclass(frozen=True)
class Served:
    url: str
    pid: int
    instance: Path


@contextmanager
def serving(instance: Path, **settings: str) -> Iterator[Served]:
    """Pare on a fresh port with `settings` in its environment, until the block ends. What it says is in serve.log.

    Files are timed no longer than a test needs, where the settings do not say for how long.

    The folder that it is started in holds files that are named as modules; none of them may be imported.
    """
    started_in = instance / "started in"
    started_in.mkdir(parents=True, exist_ok=True)
    for name in ("gunicorn.conf", "json", "numpy", "yaml"):
        (started_in / f"{name}.py").write_text("raise SystemExit(f'{__file__} was imported')\n")
    environment = os.environ | {f"PARE_{name.upper()}": value for name, value in (QUICK | settings).items()}
    command = [sys.executable, "-P", "-m", "webapp.cli", "serve", "--port", "0", "--instance", str(instance)]
    log = (instance / "serve.log").open("w")
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
        start_new_session=True,
        cwd=started_in,
    )
    overdue = threading.Timer(PATIENCE_SECONDS, process.kill)
    overdue.start()
    try:
        url = next((line.split(READY)[1].strip() for line in process.stdout if READY in line), None)
        overdue.cancel()
        assert url, f"Pare did not start:\n{(instance / 'serve.log').read_text()}"
        drained = threading.Thread(target=process.stdout.read, daemon=True)
        drained.start()
        yield Served(url, process.pid, instance)
    finally:
        overdue.cancel()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(ENDED_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
        log.close()
