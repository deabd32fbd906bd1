"""The bytes of a format's file before it is written, for budgets on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from webapp.engine.facts import CheckpointFacts
from webapp.engine.profiles.file_sizes import OWN, FileSizes
from webapp.engine.weights import StoragePlan

from . import check_names, exporters
from .base import Exporter


@dataclass(frozen=True)
class FormatSizes(FileSizes):
    """`beside`: what the file holds beside the weights."""

    exporter: Exporter
    beside: int

    @property
    def format(self) -> str | None:  # type: ignore[override]
        return self.exporter.name

    def weight(self, plan: StoragePlan, name: int, total: int) -> int:
        return self.exporter.stored(plan)

    def file(self, plans: Mapping[str, StoragePlan], facts: CheckpointFacts) -> int:
        return self.beside + sum(map(self.exporter.stored, plans.values()))


def sizes_of(facts: CheckpointFacts, asked: Sequence[str]) -> FileSizes:
    """Of the one format that is asked for beside those of every run, where its sizes are known; else of Pare's file.

    Raises RecipeInvalid for a format that there is none of.
    """
    check_names(asked)
    chosen = [exporters()[name] for name in dict.fromkeys(asked) if not exporters()[name].can.always]
    if len(chosen) != 1 or (beside := facts.beside.get(chosen[0].name)) is None:
        return OWN
    return FormatSizes(chosen[0], beside)


def beside(folder: Path, facts: CheckpointFacts) -> dict[str, int]:
    """What the file of each format whose sizes are known beforehand holds beside this checkpoint's weights."""
    from webapp.engine.weights.model import Model

    fitting = [form for form in exporters().values() if form.refuses(facts) is None]
    found = {form.name: form.beside(Model.of_checkpoint(folder, facts)) for form in fitting}
    return {name: size for name, size in found.items() if size is not None}
