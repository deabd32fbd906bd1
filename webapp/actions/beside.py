"""A run beside the one that it is like: what is different in what was asked, and in what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from webapp.charts import ABSOLUTE_METRICS
from webapp.engine.exporters import measured
from webapp.engine.recipe import Recipe
from webapp.engine.run.metrics import difference
from webapp.engine.run.stages.baseline import SCORES, read_scores
from webapp.engine.run.stages.verify import VerifyStage
from webapp.store.errors import StoreError
from webapp.store.files import FileStore
from webapp.store.models import Dataset, Run

MOST_SAMPLES = 5000  # that a paired interval is computed of while a page waits: a tenth of a second


@dataclass(frozen=True)
class BesideRow:
    """`metric` is "" of what is no metric; `unit` "bytes" or "share" then."""

    title: str
    earlier: float
    later: float
    unit: str = ""
    metric: str = ""
    earlier_ci95: tuple[float, float] | None = None
    later_ci95: tuple[float, float] | None = None
    paired: dict[str, Any] | None = None  # difference, its ci95 and verdict, on the same samples
    own_original: bool = False  # each is measured against its own original, and these are two


@dataclass(frozen=True)
class Beside:
    """`changes` in words: "calibrated on Y"; `rows` once both have a result."""

    earlier: Run
    changes: list[str]
    rows: list[BesideRow]
    same_samples: bool


def beside(run: Run, files: FileStore) -> Beside | None:
    """The run beside the one that it forked; None where it forked none, or that is gone."""
    earlier = run.forked_from
    if earlier is None:
        return None
    same = run.dataset_id is not None and run.dataset_id == earlier.dataset_id
    return Beside(earlier, list(_changes(earlier, run)), list(_rows(earlier, run, same, files)), same)


def _changes(earlier: Run, run: Run) -> Iterator[str]:
    if run.checkpoint_id != earlier.checkpoint_id:
        yield f"applied to {run.checkpoint.name} in place of {earlier.checkpoint.name}"
    if (run.training_dataset_id, run.dataset_id) != (earlier.training_dataset_id, earlier.dataset_id):
        if _learned(run) != _learned(earlier):
            yield f"calibrated on {_learned(run)} in place of {_learned(earlier)}"
        if run.dataset_id != earlier.dataset_id:
            yield f"evaluated on {_name(run.dataset)} in place of {_name(earlier.dataset)}"
    if Recipe.read(run.recipe).digest != Recipe.read(earlier.recipe).digest:
        yield "with another recipe"
    if run.teacher_checkpoint_id != earlier.teacher_checkpoint_id:
        yield "with another teacher"
    if run.seed != earlier.seed:
        yield f"with the seed {run.seed} in place of {earlier.seed}"


def _learned(run: Run) -> str:
    return _name(run.training_dataset or run.dataset)


def _name(dataset: Dataset | None) -> str:
    return dataset.name if dataset else "no dataset"


def _rows(earlier: Run, run: Run, same: bool, files: FileStore) -> Iterator[BesideRow]:
    before, after = earlier.result, run.result
    if before is None or after is None:
        return
    yield BesideRow("Size", before["size_bytes"], after["size_bytes"], "bytes")
    for name, metric in after["metrics"].items():
        was = before["metrics"].get(name)
        if was is None or was["value"] is None or metric["value"] is None:
            continue
        intervals = [tuple(each["ci95"]) if each.get("ci95") else None for each in (was, metric)]
        apart = name not in ABSOLUTE_METRICS and run.checkpoint_id != earlier.checkpoint_id
        kept = same and not apart and metric["n"] <= MOST_SAMPLES
        scores = (_scores(earlier), _scores(run)) if kept else (None, None)
        paired = _paired(name, *scores, run.seed, files) if None not in scores else None
        yield BesideRow(metric["title"], was["value"], metric["value"], "", name, *intervals, paired, apart)
    yield BesideRow("Sparsity", before["sparsity"], after["sparsity"], "share")


def _scores(run: Run) -> str | None:
    """The digest of what was measured of each sample."""
    name = VerifyStage.name_of(measured().name)
    entry = next((stage.files.get(SCORES) for stage in run.stages if stage.name == name), None)
    return entry["digest"] if entry else None


def _paired(metric: str, earlier: str | None, later: str | None, seed: int, files: FileStore) -> dict[str, Any] | None:
    """The later less the earlier; None where what was measured is not kept, or not of the same samples."""
    assert earlier is not None
    assert later is not None
    try:
        return _difference(metric, files.path(earlier), files.path(later), seed)
    except (StoreError, OSError):
        return None


@lru_cache(256)  # files of the store are named by their content
def _difference(metric: str, earlier: Path, later: Path, seed: int) -> dict[str, Any] | None:
    sides = [read_scores(path).get(metric) for path in (earlier, later)]
    if sides[0] is None or sides[1] is None or len(sides[0].sums) != len(sides[1].sums):
        return None
    return difference(metric, sides[0], sides[1], seed)
