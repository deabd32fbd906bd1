"""A worker whose stages and child are scripted: `python -m tests.jobs.scripted_worker INSTANCE`.

A run's script is where its preprocessing would be: {"stages": {name: [[verb, argument], ...]}, "ledger": path}; a
profile's too: {"profile": [[verb, argument], ...], "ledger": path}.
"""

import hashlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

from webapp.config import InstallationSettings
from webapp.engine.run.stages import RunStage, format_of
from webapp.jobs import runs
from webapp.jobs.worker import run_worker

CHILD = "tests.jobs.scripted_child"


class ScriptedStage(RunStage):
    """Reads the one before it; its key is the scripts up to it."""

    kind = "scripted"

    @classmethod
    def of_run(cls, asked):
        names = asked.preprocessing["stages"]
        return [cls(asked, name) for name in names if name != "blame" or asked.blame is not None]

    @property
    def name(self) -> str:
        return self.which

    @property
    def title(self) -> str:
        return f"Stage {self.name}"

    @property
    def place(self):
        return self._names.index(self.name), 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """What stands before it; of a format's stage, in that format, or the last of those that all read."""
        shared = [name for name in self._names if "-" not in name]
        row = [name for name in self._names if name.endswith(f"-{self.format}")] if self.format else shared
        before = row[: row.index(self.name)][-1:] or (shared[-1:] if self.format else [])
        return tuple(before)

    @property
    def format(self) -> str | None:
        return format_of(self.name)

    @property
    def optional(self) -> bool:
        return self.name.startswith("original-")

    def decided_by(self, sources):
        scripts = [self.asked.preprocessing["stages"][name] for name in self._names[: self.place[0] + 1]]
        digest = hashlib.sha256(json.dumps([scripts, self.asked.seed]).encode()).hexdigest()
        return {"scripts": digest}

    def run(self, job, report):
        raise NotImplementedError  # the child is another one

    @property
    def _names(self) -> list[str]:
        return list(self.asked.preprocessing["stages"])


def scripted(asked) -> dict[str, RunStage]:
    return {stage.name: stage for stage in ScriptedStage.of_run(asked)}


def conclude(run, sources, results, expected=None, **more) -> dict[str, Any]:
    artifacts = [
        {"name": f"{stage}-{path}", "format": "text", "stage": stage, "path": path, "proof": None, **entry}
        for stage, files in results.files.items()
        for path, entry in files.items()
    ]
    planned = scripted(run)
    lost = {planned[name].format: why for name, why in results.failed.items() if not planned[name].optional}
    missing = [{"artifact": f"{form}.txt", "format": form, "title": form, "reason": why} for form, why in lost.items()]
    return {
        "baseline": {"size_bytes": 2},
        "result": {"size_bytes": 1}
        | ({"metrics": {"kl_divergence": {"value": 0.5, "ci95": None}}} if expected else {}),
        "receipt": {**results.facts, "undelivered": missing, "verdict": {"metric": None}},
        "artifacts": [*artifacts, *map(_lacking, missing)],
    }


def _lacking(row: dict[str, Any]) -> dict[str, Any]:
    nothing = {"digest": None, "size_bytes": None, "proof": None}
    return {"name": row["artifact"], "format": row["format"], "state": "failed", "reason": row["reason"], **nothing}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    runs.plan_stages, runs.conclude = scripted, conclude
    run_worker(InstallationSettings.load(Path(sys.argv[1])), entry=CHILD)
