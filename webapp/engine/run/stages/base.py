"""What a file in this folder declares and does: one kind of stage. Nothing else has to be touched for a new one."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import webapp.engine
from webapp.engine.exporters import Exporter, exporters
from webapp.engine.progress import Report
from webapp.engine.run.shapes import Footprint, RunShapes
from webapp.engine.techniques import DATA_NEEDS, needs_of

from .job import RunGiven, StageJob

COST = "cost"  # among a stage's facts, once it is done: its time, and its memory beside what was foreseen

Facts = Mapping[str, Any]
Files = Mapping[str, Facts]  # path -> {"digest", "size_bytes"}


@dataclass(frozen=True)
class SourceDigests:
    """The hashes of what a run begins from. No `training`: the dataset's own part; no `teacher`: the original."""

    checkpoint: str
    dataset: str | None = None
    training: str | None = None
    teacher: str | None = None


@dataclass(frozen=True)
class StageResults:
    """By the stages' names: what those that are done returned and wrote; {"code", "message"} of those that failed."""

    facts: Mapping[str, Facts]
    files: Mapping[str, Files]
    failed: Mapping[str, Facts] = field(default_factory=dict)


class RunStage(ABC):
    """One piece of a run's work: reads the outputs of its `inputs`, writes files into a folder, returns facts.

    `which` tells it from others of its kind: the number of its step, or its format's name. Its name is stored with
    the run: `name_of` makes it, and nothing but this package takes it apart.
    """

    kind: ClassVar[str]  # no two have the same, and none has a dash
    weight: ClassVar[float] = 1.0  # the share of a run's time that it is expected to take

    def __init__(self, asked: RunGiven, which: str = "") -> None:
        self.asked, self.which = asked, which

    @classmethod
    @abstractmethod
    def of_run(cls, asked: RunGiven) -> Iterable[Self]:
        """The stages of this kind that the run has."""

    @classmethod
    def name_of(cls, which: str | int = "") -> str:
        return f"{cls.kind}-{which}" if which else cls.kind

    @property
    def name(self) -> str:
        return self.name_of(self.which)

    @property
    @abstractmethod
    def title(self) -> str:
        """For people, while it runs."""

    @property
    @abstractmethod
    def place(self) -> tuple[int, int]:
        """(section, rank): 0 is the original, then each step and each format is a section. It is after its inputs."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the stages that it reads. It does without those that are optional."""
        return ()

    @property
    def format(self) -> str | None:
        """What fails where it fails, while the run goes on; None: the run fails."""
        return None

    @property
    def optional(self) -> bool:
        """Whether it fails alone, and not even its format."""
        return False

    @abstractmethod
    def decided_by(self, sources: SourceDigests) -> dict[str, Any]:
        """All that decides what it makes beside the checkpoint, its name and the code, as JSON."""

    def key(self, sources: SourceDigests) -> str:
        """The hash of all that decides what it makes; a run takes over what another one's stage of this key made."""
        return hashed({"stage": self.name, "checkpoint": sources.checkpoint} | self.decided_by(sources))

    def footprint(self, shapes: RunShapes) -> Footprint:
        """What it needs at most, from shapes alone. Of one that does not say, nothing is foreseen."""
        return Footprint(memory_bytes=None, disk_bytes=0)

    @abstractmethod
    def run(self, job: StageJob, report: Report) -> dict[str, Any]:
        """Does the work, in a process of its own: files go into `job.output`, facts come back. Raises PareError."""

    def receipt(self, results: StageResults) -> dict[str, Any]:
        """What it adds to the receipt once it is done: a list is joined to those of other stages under its name."""
        return {}

    def by_evaluation(self, sources: SourceDigests) -> dict[str, Any]:
        """For `decided_by`, where it measures quality."""
        return {
            "dataset": sources.dataset,
            **self.asked.model_dump(mode="json", exclude={"recipe", "exports", "blame", "prompts"}),
        }

    def by_steps(self, sources: SourceDigests, count: int | None = None) -> dict[str, Any]:
        """For `decided_by`, where it reads what the first `count` steps left; None: all of them."""
        steps = self.asked.recipe.steps[:count]
        needs = frozenset[str]().union(*(needs_of(step.technique, step.settings, step.overrides) for step in steps))
        found: dict[str, Any] = {"steps": [step.canonical() for step in steps], "seed": self.asked.seed}
        if needs & DATA_NEEDS:
            found |= {"training": sources.training or sources.dataset}
            found |= self.asked.model_dump(mode="json", include={"preprocessing", "task"})
        if "teacher" in needs:
            found |= {"teacher": sources.teacher}
        return found


class FormatStage(RunStage):
    """One for each format that the run writes; the one that the receipt is measured on fails the run."""

    rank: ClassVar[int]  # among the stages of its format

    @classmethod
    def of_run(cls, asked: RunGiven) -> Iterable[Self]:
        return [cls(asked, name) for name in asked.exports]

    @property
    def exporter(self) -> Exporter:
        return exporters()[self.which]

    @property
    def place(self) -> tuple[int, int]:
        return 1 + len(self.asked.recipe.steps) + self.asked.exports.index(self.which), self.rank

    @property
    def format(self) -> str | None:
        return None if self.exporter.can.always else self.which


def hashed(decided_by: dict[str, Any]) -> str:
    """The hash of what decides a result, given as JSON, and of the code that makes it."""
    return hashlib.sha256(json.dumps({"code": code_digest(), **decided_by}, sort_keys=True).encode()).hexdigest()


@cache
def code_digest() -> str:
    """The hash of the sources of the engine and of the plug-ins: who made a result is who reuses it."""
    here = Path(webapp.engine.__path__[0])
    content = hashlib.sha256()
    for path in sorted(here.rglob("*.py")):
        content.update(str(path.relative_to(here)).encode() + b"\0" + path.read_bytes())
    for group in sorted(name for name in metadata.entry_points().groups if name.startswith("pare.")):
        for entry in sorted(metadata.entry_points(group=group), key=lambda entry: entry.value):
            content.update(f"{group} {entry.value} {entry.dist and entry.dist.version}\0".encode())
            spec = find_spec(entry.module.partition(".")[0])
            for where in spec.submodule_search_locations or [spec.origin or ""] if spec else ():
                for path in [*sorted(Path(where).rglob("*.py")), *([Path(where)] if Path(where).is_file() else ())]:
                    content.update(path.read_bytes())
    return content.hexdigest()
