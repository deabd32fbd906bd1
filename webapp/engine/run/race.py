"""Runs on the same samples, held against one of them: which is better, by the paired interval of their difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webapp.units import FRACTIONS, lowered, significant

from .metrics import METRICS, Scores, difference, number_text


@dataclass(frozen=True)
class Entrant:
    """A run that is done: its name within the race, and its scores per sample."""

    title: str
    scores: Scores


def judged(metric: str, leader: str, entrants: Mapping[str, Entrant], seed: int = 0) -> dict[str, Any]:
    """{"metric", "leader", "rows", "winner", "sentence"}: each other entrant beside the leader, by their keys.

    A row has the leader's value less the other's, its interval, and the verdict on the leader. The leader wins where
    it is better than every other; where it is worse than one, the best of those wins, and else nobody.
    """
    own = entrants[leader]
    rows = {
        key: difference(metric, other.scores[metric], own.scores[metric], seed)
        for key, other in entrants.items()
        if key != leader and metric in other.scores
    }
    values = {key: entrants[key].scores[metric].value(metric) for key in (leader, *rows)}
    sign = 1 if METRICS[metric].higher_is_better else -1
    best = max(rows, key=lambda key: sign * values[key], default=None)
    winner = None
    if best is None:
        sentence = "There is no other result to compare with."
    else:
        told = f"{lowered(METRICS[metric].title)} {_text(metric, values[leader])} against "
        told += f"{_text(metric, values[best])} of “{entrants[best].title}”{_interval(metric, rows[best])}"
        beaten = [key for key, row in rows.items() if row["verdict"] == "worse"]
        if all(row["verdict"] == "better" for row in rows.values()):
            winner, sentence = leader, f"{own.title} is better than every other: {told}."
        elif beaten:
            winner = max(beaten, key=lambda key: sign * values[key])
            sentence = f"{own.title} lost to “{entrants[winner].title}”: {told}."
        else:
            sentence = f"No difference shown between {own.title} and the best of the others: {told}."
    return {"metric": metric, "leader": leader, "rows": rows, "winner": winner, "sentence": sentence}


def _text(metric: str, value: float) -> str:
    return number_text(value if value == value else None, metric)


def _interval(metric: str, row: Mapping[str, Any]) -> str:
    if row["ci95"] is None:
        return ""
    scale, unit = (100, " points") if metric in FRACTIONS else (1, "")
    low, high = (significant(scale * end, "+.3g") for end in row["ci95"])
    return f" (95 % CI of the paired difference {low} to {high}{unit})"
