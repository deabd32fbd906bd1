"""A worker whose pipeline and child are scripted: `python -m tests.jobs.scripted_worker INSTANCE`."""

import hashlib
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webapp.config import Settings
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


class ScriptedPipeline:
    """Each stage reads the one before it; its key is the scripts up to it."""

    def prepare(self) -> None:
        pass

    def stages(self, run: Any) -> list[ScriptedPlan]:
        names = list(run["recipe"]["stages"])
        return [ScriptedPlan(name, tuple(names[max(0, at - 1) : at])) for at, name in enumerate(names)]

    def key(self, stage: str, run: Any, checkpoint: str, *data: str | None) -> str:
        names = list(run["recipe"]["stages"])
        scripts = [run["recipe"]["stages"][name] for name in names[: names.index(stage) + 1]]
        return hashlib.sha256(json.dumps([scripts, checkpoint, *data, run["seed"]]).encode()).hexdigest()

    def conclude(
        self, run: Any, checkpoint: Any, dataset: Any, training_dataset: Any, stage_facts: Any, stage_files: Any
    ) -> dict[str, Any]:
        artifacts = [
            {"name": f"{stage}-{path}", "format": "text", "stage": stage, "path": path, "proof": None, **entry}
            for stage, files in stage_files.items()
            for path, entry in files.items()
        ]
        return {
            "baseline": {"size_bytes": 2},
            "result": {"size_bytes": 1},
            "receipt": stage_facts,
            "artifacts": artifacts,
        }


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    run_worker(Settings.load(Path(sys.argv[1])), pipeline=ScriptedPipeline(), entry=CHILD)
