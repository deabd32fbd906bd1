"""What is measured of answers, its intervals, and what may be said of a difference.

Intervals are 95 %: Wilson's for a share, the percentile bootstrap for the rest; differences are paired by sample.
What is no finite number (NaN answers, a perplexity beyond floating point) is None, and so is its interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from webapp.units import FRACTIONS, percent, significant

RESAMPLES = 2000
AT_ONCE = 100_000  # numbers drawn
LARGEST_EXPONENT = 709.0  # beyond it there is no float64
Interval = tuple[float, float]
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Metric:
    title: str
    unit: str
    higher_is_better: bool
    of_ratio: Callable[[float], float] = float  # from the mean of what was collected to the value that is shown


def _exponential(nats: float) -> float:
    return math.exp(nats) if nats < LARGEST_EXPONENT else math.inf


METRICS = {
    "accuracy": Metric("Accuracy", "", True),
    "accuracy_norm": Metric("Accuracy by length", "", True),
    "perplexity": Metric("Perplexity", "", False, _exponential),
    "mse": Metric("Mean squared error", "", False),
    "mae": Metric("Mean absolute error", "", False),
    "r2": Metric("R²", "", True, lambda unexplained: 1 - unexplained),
    "mean_iou": Metric("Mean IoU", "", True),
    "agreement": Metric("Agreement with the original", "", True),
    "kl_divergence": Metric("KL divergence from the original", "nats", False),
    "cosine": Metric("Cosine to the original's embeddings", "", True),
    "spearman": Metric("Rank correlation of similarities", "", True),
    "relative_error": Metric("Relative error to the original", "", False, math.sqrt),
    "not_finite": Metric("Answers with NaN or infinity", "", False),
}
SHARES = ("accuracy", "accuracy_norm", "agreement", "not_finite")


@dataclass
class Samples:
    """What a metric collects: per sample a sum and a count (tokens, or 1); its value is sums over counts.

    Or a row of each, with a column per class, target or output: then it is the mean over the columns that count.
    """

    sums: list[Any]
    counts: list[Any]

    def value(self, metric: str) -> float:
        """NaN or infinite where the answers are."""
        return next(self.values(metric, [np.ones((1, len(self.sums)))]))

    def values(self, metric: str, draws: Iterable[Array]) -> Iterator[float]:
        """Of resamples: each row of a draw (resamples, samples) says how often each sample is in one."""
        sums, counts = (np.asarray(side, dtype=float).reshape(len(side), -1) for side in (self.sums, self.counts))
        for times in draws:
            with np.errstate(all="ignore"):
                above, below = _added(sums, times), _added(counts, times)
                ratios = np.where(below > 0, above / below, 0).sum(1) / (below > 0).sum(1)
            yield from map(METRICS[metric].of_ratio, ratios.tolist())

    @property
    def n(self) -> int:
        """Samples, or tokens."""
        return len(self.sums) if self.sums and isinstance(self.sums[0], list) else int(sum(self.counts))


def _added(rows: Array, times: Array) -> Array:
    """(resamples, columns): the sums of the rows that are drawn; NaN of another one is not in it."""
    finite = np.isfinite(rows).all(1)
    drawn = times[:, ~finite, None]
    added: Array = times[:, finite] @ rows[finite] + np.where(drawn > 0, drawn * rows[~finite], 0).sum(1)
    return added


Scores = dict[str, Samples]


def shown(metric: str, value: float, n: int, ci95: Interval) -> dict[str, Any]:
    """A metric as results and receipts have it."""
    declared = METRICS[metric]
    return {
        "value": value if math.isfinite(value) else None,
        "n": n,
        "ci95": list(ci95) if all(map(math.isfinite, (value, *ci95))) else None,
        "higher_is_better": declared.higher_is_better,
        "title": declared.title,
        "unit": declared.unit,
    }


def number_text(value: float | None, metric: str) -> str:
    """A measured value in a sentence, in per cent where it is a share; of None, that it is no number."""
    if value is None:
        return "not a finite number"
    if metric in FRACTIONS:
        return percent(value, 2)
    return (
        f"{value:.4f}"
        if 0.001 <= abs(value) < 10 or value == 0
        else f"{value:,.2f}"
        if abs(value) >= 10
        else significant(value)
    )


def summarise(scores: Scores, seed: int = 0) -> dict[str, Any]:
    """Every metric with its n and interval."""
    return {
        metric: shown(metric, samples.value(metric), samples.n, interval(metric, samples, seed))
        for metric, samples in scores.items()
    }


def interval(metric: str, samples: Samples, seed: int = 0) -> Interval:
    """NaN where nothing is known of how samples differ, for there is one."""
    if metric in SHARES and set(samples.counts) == {1.0}:
        return wilson(samples.value(metric), samples.n)
    if len(samples.sums) < 2:
        return math.nan, math.nan
    return _percentiles(samples.values(metric, _resampled(len(samples.sums), seed)))


def wilson(share: float, n: int) -> Interval:
    """Wilson's score interval of a share of n: https://doi.org/10.1080/01621459.1927.10502953."""
    z = 1.959963984540054
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def difference(metric: str, before: Samples, after: Samples, seed: int = 0) -> dict[str, Any]:
    """after - before with its paired bootstrap interval, and the verdict: "worse", "better", "no difference shown".

    Where one side is no finite number there is neither difference nor interval, and that side is the worse one; where
    neither is, or where there is one sample, there is no verdict.
    """
    values = before.value(metric), after.value(metric)
    if not all(map(math.isfinite, values)):
        lost = [not math.isfinite(value) for value in values]
        verdict = None if all(lost) else "worse" if lost[1] else "better"
        return {"difference": None, "ci95": None, "verdict": verdict}
    if len(before.sums) < 2:
        return {"difference": values[1] - values[0], "ci95": None, "verdict": None}
    sides = (side.values(metric, _resampled(len(before.sums), seed)) for side in (before, after))
    low, high = _percentiles(later - earlier for earlier, later in zip(*sides, strict=True))
    sign = 1 if METRICS[metric].higher_is_better else -1
    verdict = "no difference shown" if not (low > 0 or high < 0) else "better" if sign * low > 0 else "worse"
    found = [low, high] if math.isfinite(low) and math.isfinite(high) else None
    return {"difference": values[1] - values[0], "ci95": found, "verdict": verdict}


def _percentiles(values: Iterable[float]) -> Interval:
    with np.errstate(invalid="ignore"):
        low, high = np.percentile(np.fromiter(values, dtype=float), [2.5, 97.5])
    return float(low), float(high)


def _resampled(n: int, seed: int) -> Iterator[Array]:
    """(resamples, n) at a time: how often each of n samples is drawn, in each of the resamples."""
    generator, at_once = np.random.default_rng(seed), max(1, AT_ONCE // n)
    for first in range(0, RESAMPLES, at_once):
        rows = np.arange(min(at_once, RESAMPLES - first))[:, None]
        drawn = generator.integers(0, n, (len(rows), n)) + n * rows
        yield np.bincount(drawn.reshape(-1), minlength=n * len(rows)).reshape(-1, n).astype(float)
