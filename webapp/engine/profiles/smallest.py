"""The smallest file within a tolerance: which size to try next, or why to stop. Pure: the probes so far in, a step out.

A bracket is narrowed: on one side the smallest file that was within the tolerance, on the other the largest below it
that was not. The profile says where to begin, and after one probe by how much to change the size; from then on what was
measured does (regula falsi on logarithms, kept away from the ends).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from webapp.units import byte_text, significant

FINE = 0.02  # of the size: a bracket this narrow is not narrowed further
COARSE = 0.1  # the same, where the intervals of both its ends reach over the tolerance
MARGIN = 0.15  # of the bracket, at either end, that a probe keeps away from
FIRST_STEPS = 1.5, 4.0  # by which factors the front's level may be changed after the first probe
LARGEST_STEP = 2.0  # by which factor the size may be changed while one side of the bracket is open
SLIGHT = 0.2  # slopes that are flatter tell no size


@dataclass(frozen=True)
class Probe:
    """A file that was measured: by how much it is worse than the original, and the 95 % interval of that."""

    size_bytes: int
    worse: float | None  # None: its answers are no numbers
    low: float | None = None
    high: float | None = None


def within(probe: Probe, tolerance: float, certain: bool = False) -> bool:
    judged = probe.high if certain and probe.high is not None else probe.worse
    return judged is not None and judged <= tolerance


@dataclass(frozen=True)
class Search:
    """`front` is (size, expected loss) of a profile's budgets, `first_bytes` what a budget for the tolerance takes.

    `fits` says how large the file of a budget of so many bytes really is: not larger, and often smaller.
    `certain`: the whole interval has to be within the tolerance, not the measured value alone.
    """

    tolerance: float
    unit: str  # "points", "nats", ...
    front: Sequence[tuple[int, float]]
    first_bytes: int
    fits: Callable[[int], int]
    most_probes: int
    certain: bool = False

    def holds(self, probe: Probe) -> bool:
        return within(probe, self.tolerance, self.certain)

    def shown(self, value: float) -> str:
        return f"{significant(value)} {self.unit}"


@dataclass(frozen=True)
class Try:
    """A budget of so many bytes is to be run next."""

    size_bytes: int
    why: str


@dataclass(frozen=True)
class Stop:
    """`found` is the place of the answer among the probes; None where none is within the tolerance."""

    found: int | None
    why: str


def next_step(search: Search, probes: Sequence[Probe], seconds_left: float = math.inf) -> Try | Stop:
    """`seconds_left` is what another probe may take: none is begun that would take longer than those before it."""
    held, failed = _bracket(search, probes)
    found = probes.index(held) if held else None
    if reason := _enough(search, probes, held, failed, seconds_left):
        return Stop(found, reason)
    if not probes:
        asked = search.first_bytes
        why = f"The profile expects {search.shown(search.tolerance)} worse at this size."
    else:
        asked, why = _between(search, probes, held, failed)
    below, above = failed.size_bytes if failed else 0, held.size_bytes if held else math.inf
    utmost = held.size_bytes - 1 if held else max(size for size, _ in search.front)
    for size in (asked, utmost):  # where the options are few, what fits may be the file that failed
        if not probes or below < search.fits(size) < above:
            return Try(size, why)
    return Stop(found, _nothing_left(held, failed))


def _bracket(search: Search, probes: Sequence[Probe]) -> tuple[Probe | None, Probe | None]:
    """The smallest probe that holds, and the largest below it that does not."""
    held = min((p for p in probes if search.holds(p)), key=lambda p: p.size_bytes, default=None)
    most = held.size_bytes if held else math.inf
    below = (p for p in probes if not search.holds(p) and p.size_bytes < most)
    return held, max(below, key=lambda p: p.size_bytes, default=None)


def _enough(
    search: Search, probes: Sequence[Probe], held: Probe | None, failed: Probe | None, seconds_left: float
) -> str:
    """Why no other probe is needed, or possible; empty where one is."""
    if held and failed:
        apart = 1 - failed.size_bytes / held.size_bytes
        sizes = f"{byte_text(held.size_bytes)} is within the tolerance and {byte_text(failed.size_bytes)} is not"
        if apart <= FINE:
            return f"{sizes}: less than {FINE:.0%} lie between them."
        if apart <= COARSE and all(_straddles(search, probe) for probe in (held, failed)):
            return (
                f"{sizes}, but both intervals reach over {search.shown(search.tolerance)}: on these samples nothing "
                "that lies between them can be told apart."
            )
    if len(probes) >= search.most_probes:
        return f"{len(probes)} runs were measured, as many as were asked for."
    if probes and seconds_left <= 0:
        return "Another run would not end within the time that was given."
    return ""


def _straddles(search: Search, probe: Probe) -> bool:
    return probe.low is not None and probe.high is not None and probe.low <= search.tolerance <= probe.high


def _between(search: Search, probes: Sequence[Probe], held: Probe | None, failed: Probe | None) -> tuple[int, str]:
    """The next size, and why it is tried."""
    if held and failed:
        return _inside(search, held, failed), (
            f"{byte_text(held.size_bytes)} is within the tolerance ({_worse(search, held)}) and "
            f"{byte_text(failed.size_bytes)} is not ({_worse(search, failed)}): a size between them."
        )
    known = held or failed
    assert known is not None
    size = _beyond(search, probes, known)
    if held:
        return size, f"{byte_text(held.size_bytes)} is within the tolerance ({_worse(search, held)}): a smaller one."
    return size, f"{byte_text(known.size_bytes)} is not within the tolerance ({_worse(search, known)}): a larger one."


def _worse(search: Search, probe: Probe) -> str:
    return "answers with NaN or infinity" if probe.worse is None else f"{search.shown(probe.worse)} worse"


def _factor(search: Search, probe: Probe) -> float:
    """By how much the expected loss may change from this probe on, so that the tolerance is reached and passed."""
    least, most = FIRST_STEPS
    if search.holds(probe):
        ratio = search.tolerance / probe.worse if probe.worse and probe.worse > 0 else most
        return min(most, max(least, ratio))
    ratio = search.tolerance / probe.worse if probe.worse else 0.0
    return max(1 / most, min(1 / least, ratio))


def _beyond(search: Search, probes: Sequence[Probe], known: Probe) -> int:
    """A size on the other side of the tolerance, where all probes are on this one: by two of them, or by the front."""
    held = search.holds(known)
    least, most = (1 / LARGEST_STEP, 1 - COARSE) if held else (1 + COARSE, LARGEST_STEP)
    others = sorted((p for p in probes if p is not known), key=lambda p: abs(p.size_bytes - known.size_bytes))
    slope = _slope(known, others[0]) if others else None
    if slope is not None and known.worse and search.tolerance > 0:
        aim = search.tolerance * (1.1 if held else 0.9)
        size = known.size_bytes * math.exp((math.log(aim) - math.log(known.worse)) / slope)
    elif others:  # two that lose alike: nothing tells how far it still is
        size = known.size_bytes * LARGEST_STEP ** (-0.5 if held else 0.5)
    else:
        size = _size_at(search, _level(search, known.size_bytes) * _factor(search, known))
    return round(known.size_bytes * min(most, max(least, size / known.size_bytes)))


def _slope(one: Probe, other: Probe) -> float | None:
    """By how much the logarithm of what is lost falls with that of the size; None where it does not."""
    if not one.worse or not other.worse or min(one.worse, other.worse) <= 0 or one.size_bytes == other.size_bytes:
        return None
    found = math.log(one.worse / other.worse) / math.log(one.size_bytes / other.size_bytes)
    return found if found < -SLIGHT else None


def _inside(search: Search, held: Probe, failed: Probe) -> int:
    """Where the measured loss, a straight line in logarithms between both ends, meets the tolerance."""
    share = 0.5
    if held.worse and failed.worse and 0 < held.worse < failed.worse and search.tolerance > 0:
        worse = math.log(held.worse), math.log(search.tolerance), math.log(failed.worse)
        share = (worse[1] - worse[0]) / (worse[2] - worse[0])
    share = min(1 - MARGIN, max(MARGIN, share))
    return round(math.exp((1 - share) * math.log(held.size_bytes) + share * math.log(failed.size_bytes)))


def _level(search: Search, size_bytes: float) -> float:
    """The front's expected loss at a size, between its points on straight lines."""
    sizes, losses = (np.array(side, dtype=float) for side in zip(*sorted(search.front), strict=True))
    return float(np.interp(size_bytes, sizes, losses))


def _size_at(search: Search, level: float) -> int:
    """The smallest size at which the front expects at most this loss."""
    sizes, losses = (np.array(side, dtype=float) for side in zip(*sorted(search.front, reverse=True), strict=True))
    return math.ceil(float(np.interp(level, np.maximum.accumulate(losses), sizes)))


def _nothing_left(held: Probe | None, failed: Probe | None) -> str:
    if held and failed:
        return (
            f"Between {byte_text(failed.size_bytes)}, which is not within the tolerance, and "
            f"{byte_text(held.size_bytes)}, which is, the options have no file."
        )
    if held:
        return f"The options have no file that is smaller than {byte_text(held.size_bytes)}."
    return "The options have no larger file, and none that was measured is within the tolerance."
