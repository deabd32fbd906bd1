"""Quality and speed of a module, by the same code before and after.

Intervals are 95 %: Wilson's for a share, the percentile bootstrap for the rest; differences are paired by sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .batches import Batch, outputs
from .facts import PER_TOKEN, ArchitectureSpec
from .progress import Report

RESAMPLES = 2000
Interval = tuple[float, float]


@dataclass(frozen=True)
class Metric:
    title: str
    unit: str
    higher_is_better: bool
    of_ratio: Callable[[float], float] = float  # from the mean of what was collected to the value that is shown


METRICS = {
    "accuracy": Metric("Accuracy", "", True),
    "accuracy_norm": Metric("Accuracy by length", "", True),
    "perplexity": Metric("Perplexity", "", False, math.exp),
    "agreement": Metric("Agreement with the original", "", True),
    "kl_divergence": Metric("KL divergence from the original", "nats", False),
    "cosine": Metric("Cosine to the original's embeddings", "", True),
    "spearman": Metric("Rank correlation of similarities", "", True),
}
SHARES = ("accuracy", "accuracy_norm", "agreement")


@dataclass
class Samples:
    """What a metric collects: per sample a sum and a count (tokens, or 1); its value is sums over counts."""

    sums: list[float]
    counts: list[float]

    def value(self, metric: str, chosen: np.ndarray | None = None) -> float:
        sums, counts = np.asarray(self.sums), np.asarray(self.counts)
        if chosen is not None:
            sums, counts = sums[chosen], counts[chosen]
        return METRICS[metric].of_ratio(float(sums.sum() / counts.sum()))

    @property
    def n(self) -> int:
        return int(sum(self.counts))


Scores = dict[str, Samples]


@torch.inference_mode()
def evaluate(
    module: nn.Module,
    spec: ArchitectureSpec,
    data: Sequence[Batch],
    report: Report,
    reference: nn.Module | None = None,
) -> tuple[Scores, dict[str, Any]]:
    """One pass over the evaluation split: scores per metric, and metrics that are not a mean over samples.

    With a `reference` its outputs on the same batches are compared with: agreement and KL divergence of its
    distribution (nats, summed over the classes, averaged over rows), or the cosine and rank correlation of embeddings.
    """
    scores: Scores = {}
    embeddings: list[tuple[Tensor, Tensor]] = []
    for index, batch in enumerate(data):
        out = outputs(module, spec, batch)
        _against_targets(scores, spec, out, batch)
        if reference is not None:
            expected = outputs(reference, spec, batch)
            if batch.choices is not None:
                _choices_against_reference(scores, batch, expected, out)
            elif spec.task == "embedding":
                embeddings.append((expected, out))
            else:
                _against_reference(scores, spec, expected, out, batch)
        report.progress((index + 1) / len(data), f"Evaluating: batch {index + 1} of {len(data)}")
    more = _of_embeddings(scores, embeddings) if embeddings else {}
    return scores, more


def _add(scores: Scores, metric: str, sums: Iterable[float], counts: Iterable[float]) -> None:
    samples = scores.setdefault(metric, Samples([], []))
    samples.sums.extend(sums)
    samples.counts.extend(counts)


def _against_targets(scores: Scores, spec: ArchitectureSpec, out: Tensor, batch: Batch) -> None:
    if batch.choices is not None:
        likelihoods = choice_likelihoods(out, batch)
        by_length = likelihoods / torch.tensor(batch.choices.characters)
        for metric, found in (("accuracy", likelihoods), ("accuracy_norm", by_length)):
            _add(scores, metric, [float(int(found.argmax()) == batch.choices.answer)], [1.0])
    elif spec.task == "causal-lm":  # logits (B, T, V): position t is judged on token t + 1
        tokens = batch.inputs["input_ids"]
        log_p = torch.log_softmax(out[:, :-1].float(), -1)
        nll = -log_p.gather(-1, tokens[:, 1:, None])[..., 0].double()
        _add(scores, "perplexity", nll.sum(-1).tolist(), [float(nll.shape[1])] * len(tokens))
    elif batch.targets is not None:
        right = (out.argmax(-1) == batch.targets).double()
        _add(scores, "accuracy", right.tolist(), [1.0] * len(right))


def choice_likelihoods(out: Tensor, batch: Batch) -> Tensor:
    """(choices,) float64: the summed log-likelihood of each choice's own tokens, from logits (choices, T, V)."""
    assert batch.choices is not None
    found = []
    for row, (end, length) in enumerate(zip(batch.choices.ends, batch.choices.lengths, strict=True)):
        own = batch.inputs["input_ids"][row, end - length : end]
        log_p = torch.log_softmax(out[row, end - length - 1 : end - 1].float(), -1)  # position t is judged on t + 1
        found.append(log_p.gather(-1, own[:, None]).double().sum())
    return torch.stack(found)


def _choices_against_reference(scores: Scores, batch: Batch, expected: Tensor, out: Tensor) -> None:
    """Whether both choose alike, and the divergence between their distributions over the choices."""
    log_p, log_q = (torch.log_softmax(choice_likelihoods(side, batch), -1) for side in (expected, out))
    _add(scores, "kl_divergence", [float((log_p.exp() * (log_p - log_q)).sum())], [1.0])
    _add(scores, "agreement", [float(log_p.argmax() == log_q.argmax())], [1.0])


def _against_reference(scores: Scores, spec: ArchitectureSpec, expected: Tensor, out: Tensor, batch: Batch) -> None:
    if spec.task == "causal-lm":
        expected, out = expected[:, :-1], out[:, :-1]
    same = (expected.argmax(-1) == out.argmax(-1)).double().flatten(1 if out.dim() > 2 else 0)
    log_p, log_q = torch.log_softmax(expected.float(), -1), torch.log_softmax(out.float(), -1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).double()
    if kl.dim() == 1:
        kl, same = kl[:, None], same[:, None]
    real = torch.ones_like(kl)  # (B, T), 0 at padding
    if spec.task in PER_TOKEN and "attention_mask" in batch.inputs:
        real = batch.inputs["attention_mask"].double()
    counts = real.sum(-1).tolist()
    _add(scores, "kl_divergence", (kl * real).sum(-1).tolist(), counts)
    _add(scores, "agreement", (same * real).sum(-1).tolist(), counts)


def _of_embeddings(scores: Scores, pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    from scipy.stats import spearmanr

    expected, out = (
        torch.nn.functional.normalize(torch.cat(side).double(), dim=-1) for side in zip(*pairs, strict=True)
    )
    _add(scores, "cosine", (expected * out).sum(-1).tolist(), [1.0] * len(out))
    if len(out) < 3:
        return {}
    upper = torch.triu_indices(len(out), len(out), 1)
    ranks = spearmanr((out @ out.T)[upper[0], upper[1]].numpy(), (expected @ expected.T)[upper[0], upper[1]].numpy())
    value = float(ranks.statistic)
    return {"spearman": shown("spearman", value, len(out), (value, value))}


def shown(metric: str, value: float, n: int, ci95: Interval) -> dict[str, Any]:
    """A metric as results and receipts have it."""
    about = METRICS[metric]
    return {
        "value": value,
        "n": n,
        "ci95": list(ci95),
        "higher_is_better": about.higher_is_better,
        "title": about.title,
        "unit": about.unit,
    }


def summarise(scores: Scores, seed: int = 0) -> dict[str, Any]:
    """Every metric with its n and interval."""
    return {
        metric: shown(metric, samples.value(metric), samples.n, interval(metric, samples, seed))
        for metric, samples in scores.items()
    }


def interval(metric: str, samples: Samples, seed: int = 0) -> Interval:
    if metric in SHARES and set(samples.counts) == {1.0}:
        return wilson(samples.value(metric), samples.n)
    draws = _resampled(len(samples.sums), seed)
    values = [samples.value(metric, chosen) for chosen in draws]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def wilson(share: float, n: int) -> Interval:
    """Wilson's score interval of a share of n: https://doi.org/10.1080/01621459.1927.10502953."""
    z = 1.959963984540054
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def difference(metric: str, before: Samples, after: Samples, seed: int = 0) -> dict[str, Any]:
    """after - before with its paired bootstrap interval, and the verdict: "worse", "better", "no difference shown"."""
    draws = _resampled(len(before.sums), seed)
    values = [after.value(metric, chosen) - before.value(metric, chosen) for chosen in draws]
    low, high = (float(x) for x in np.percentile(values, [2.5, 97.5]))
    sign = 1 if METRICS[metric].higher_is_better else -1
    verdict = "no difference shown" if low <= 0 <= high else "better" if sign * low > 0 else "worse"
    return {"difference": after.value(metric) - before.value(metric), "ci95": [low, high], "verdict": verdict}


def _resampled(n: int, seed: int) -> Iterable[np.ndarray]:
    generator = np.random.default_rng(seed)
    return (generator.integers(0, n, n) for _ in range(RESAMPLES))
