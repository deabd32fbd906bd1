"""A worker whose pipeline and child are scripted: `python -m tests.jobs.scripted_worker INSTANCE`."""

import hashlib
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webapp.config import InstallationSettings
from webapp.jobs.worker import run_worker

CHILD = "tests.jobs.scripted_child"


@dataclass(frozen=True)
class ScriptedPlan:
    name: str
    inputs: tuple[str, ...]
    weight: float = 1.0

    @property
    def title(self) -> str:
        return f"Stage {self.name}"

    @property
    def format(self) -> str | None:
        """Of "export-text": "text", whose failure takes nothing with it."""
        return self.name.partition("-")[2] or None

    @property
    def optional(self) -> bool:
        return self.name.startswith("original-")


class ScriptedPipeline:
    """Each stage reads the one before it; its key is the scripts up to it."""

    def prepare(self) -> None:
        pass

    def stages(self, run: Any) -> list[ScriptedPlan]:
        names = list(run["recipe"]["stages"])
        shared = [name for name in names if "-" not in name]
        return [ScriptedPlan(name, self._inputs(name, names, shared)) for name in names]

    def _inputs(self, name: str, names: list[str], shared: list[str]) -> tuple[str, ...]:
        """What stands before it; of a format's stage, in that format, or the last of those that all read."""
        form = name.partition("-")[2]
        row = [other for other in names if other.endswith(f"-{form}")] if form else shared
        before = row[: row.index(name)][-1:] or (shared[-1:] if form else [])
        return tuple(before)

    def key(self, stage: str, run: Any, checkpoint: str, *data: str | None) -> str:
        names = list(run["recipe"]["stages"])
        scripts = [run["recipe"]["stages"][name] for name in names[: names.index(stage) + 1]]
        return hashlib.sha256(json.dumps([scripts, checkpoint, *data, run["seed"]]).encode()).hexdigest()

    def conclude(
        self,
        run: Any,
        checkpoint: Any,
        dataset: Any,
        training_dataset: Any,
        stage_facts: Any,
        stage_files: Any,
        failed: Any,
    ) -> dict[str, Any]:
        artifacts = [
            {"name": f"{stage}-{path}", "format": "text", "stage": stage, "path": path, "proof": None, **entry}
            for stage, files in stage_files.items()
            for path, entry in files.items()
        ]
        lost = {name.partition("-")[2]: why for name, why in failed.items() if not name.startswith("original-")}
        missing = [
            {"artifact": f"{form}.txt", "format": form, "title": form, "reason": why} for form, why in lost.items()
        ]
        return {
            "baseline": {"size_bytes": 2},
            "result": {"size_bytes": 1},
            "receipt": stage_facts | {"undelivered": missing},
            "artifacts": [*artifacts, *map(_lacking, missing)],
        }


def _lacking(row: dict[str, Any]) -> dict[str, Any]:
    nothing = {"digest": None, "size_bytes": None, "proof": None}
    return {"name": row["artifact"], "format": row["format"], "state": "failed", "reason": row["reason"], **nothing}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    run_worker(InstallationSettings.load(Path(sys.argv[1])), pipeline=ScriptedPipeline(), entry=CHILD)
