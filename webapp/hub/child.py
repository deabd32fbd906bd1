"""The child process that speaks with the hub: it is started, speaks and leaves as the engine's child does."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from webapp.engine.errors import PareError
from webapp.engine.run.child import DONE, FAILED, Lines, leave_with_the_worker

from .download import Wanted, download, resolve
from .errors import told
from .publish import publish


def preload(*modules: str) -> None:
    import huggingface_hub

    assert huggingface_hub


def main(job_file: str) -> int:
    lines = Lines()
    threading.Thread(target=leave_with_the_worker, daemon=True).start()
    job = json.loads(Path(job_file).read_text(encoding="utf8"))
    try:
        with told(job["endpoint"], job["repo_id"]):
            lines.send({"done": _work(job, lines)})
    except PareError as error:
        lines.send({"error": error.as_dict()})
        return FAILED
    return DONE


def _work(job: dict[str, Any], lines: Lines) -> Any:
    if job["task"] == "publish":
        folder = Path(job["folder"])
        return publish(job["endpoint"], job["token"], job["repo_id"], folder, job["private"], job["message"], lines)
    wanted = Wanted(job["endpoint"], job["token"], job["repo_id"], job["revision"])
    if job["task"] == "resolve":
        return resolve(wanted, job["limit_bytes"])
    assert job["task"] == "download", job["task"]
    return download(wanted, Path(job["folder"]), job["limit_bytes"], lines)
