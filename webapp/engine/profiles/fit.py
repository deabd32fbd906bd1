"""From predicted to expected loss: a monotone fit to what was measured, with an 80 % interval.

    log loss = PIVOT + level + exponent · (log Σ_f scale_f · predicted_f - PIVOT)  (+ split, + steps)

`split` is by how much samples that judge differ from those that techniques and the profile see: a model that was
trained on the latter is surer of them. Mixed recipes that are measured on both tell. `steps` is what the steps of a run
themselves lose more or less than they did where they were tried, which runs tell.

A power law, since the quadratic form is right at small losses and bends at large ones. Each coefficient has a normal
prior (in logarithms), so that few measurements move it no further than they can tell, and a family without any keeps
scale 1 and an uncertainty of its own: the interval is that of the posterior (Laplace's approximation; Bishop, Pattern
Recognition and Machine Learning, 4.4) beside what a measurement is off by when the fit has not seen it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from webapp.engine.facts import Facts, Task
from webapp.engine.math.isotonic import isotonic

from .facts import KEPT, Measurement, ProfileFacts
from .knapsack import Floats, Whole

COVERED = 0.8  # the share of measurements that intervals are to hold
RUN_WEIGHT = 3.0  # a run is measured on the evaluation split, through the very steps: it counts as so many of ours
LEVEL, EXPONENT, SPLIT, STEPS, SCALE = 0.7, 0.2, 0.5, 0.25, 0.7  # deviations of the priors, in logarithms
MORE = 0.15  # by which steps usually lose more than they did where they were tried: what they learnt were those samples
COMMON = 4  # coefficients before the scales
PIVOT = math.log(0.1)  # a middling loss: there the exponent says nothing of the level
TYPICAL, TYPICAL_COUNT = 0.2, 2.0  # the deviation of a measurement before there are any, and for how many it counts
LAYER = 0.55  # deviation of what one layer loses from what is predicted of it: many make up for each other
HEAVY = 4.0  # degrees of freedom of the t distribution by which outliers count less
ROUNDS = 25
EXPONENTS = (0.5, 0.75, 1.0)  # of the loss, that points may follow: answers turn with the root of the divergence
PERPLEXITY: tuple[Task | None, ...] = ("causal-lm", "masked-lm")  # whose points count that
CLEAR = 0.02  # nats, below which a perplexity moves as much by chance
OF_RUNS = 0.25  # deviation of what a run adds to it, in logarithms, where mixed recipes agree with each other
ALL_POINTS = 100.0  # of a metric that is a share
MOST = 100.0  # nats, from which on a perplexity is no number any more
TOKENS = 32  # of running text that tell as much as a sample by itself
FEW = 4.0  # samples do not span the directions in which a model's answers move: so many times the share of one
TINIEST = 1e-12  # losses below are rounding of floats


class Interval(Facts):
    """Holds the truth in 80 % of cases."""

    value: float
    low: float
    high: float


ZERO = Interval(value=0.0, low=0.0, high=0.0)


@dataclass(frozen=True)
class _Data:
    """Measurements: `predicted` (n, families), `loss` (n,) as logarithms.

    `apart` (n, 2) is 1 where it was on samples that judge, and where a run did it.
    """

    predicted: Floats
    loss: Floats
    apart: Floats

    @cached_property
    def weight(self) -> Floats:
        return np.where(self.apart[:, 1] > 0, RUN_WEIGHT, 1.0)


@dataclass(frozen=True)
class LossFit:
    """`families` are all that a budget may choose of; `theta`: level, log exponent, split, steps, then log scales."""

    families: tuple[str, ...]
    theta: Floats
    covariance: Floats
    deviation: float  # of a measurement that the fit has not seen, in logarithms
    freedom: float  # degrees of freedom of that deviation
    floor: float  # deviation that the samples themselves leave
    knots: tuple[Floats, Floats] | None = None  # (log sums, what is added there): isotonic, between measurements

    @classmethod
    def of(cls, profile: ProfileFacts) -> LossFit:
        options = {option.family for layer in profile.layers for option in layer.options}
        options |= {cut.family for cut in profile.cuts}
        families = sorted(options.union(*(one.predicted for one in profile.measured)) - {KEPT})
        data = _usable(profile.measured, families)
        theta, covariance, deviation, freedom = _power_law(data, len(families))
        text = (profile.tokens or 0) // TOKENS if profile.task == "causal-lm" else 0
        seen = max(profile.samples, text)
        fit = cls(
            tuple(families), theta, covariance, deviation, freedom, 1 / math.sqrt(max(seen, 1)) + FEW / max(seen, 1)
        )
        return fit._corrected(data)

    @cached_property
    def scales(self) -> dict[str, float]:
        """What a family's predictions are multiplied by, so that those of all families are of one kind."""
        return dict(zip(self.families, np.exp(self.theta[COMMON:]).tolist(), strict=True))

    def scaled(self, predicted: Mapping[str, float]) -> float:
        return sum(self.scales[family] * loss for family, loss in predicted.items() if family != KEPT)

    def loss(
        self, scaled: float, predicted: Mapping[str, float] | None = None, run: bool = True, alone: float = 0.0
    ) -> Interval:
        """What a run will lose whose options' losses, scaled, add up to `scaled`; not `run`: on the profile's samples.

        `predicted` says of which families: the interval is wider where little is known of them, and where the sum is
        that of few layers. `alone`: the sum of the squares of the layers' losses over the square of their sum.
        """
        if scaled <= 0:
            return ZERO
        middle = self._log_loss(np.array([math.log(scaled)]), run)[0]
        reach = self.spread(scaled, predicted, run, alone) * self._reach
        return Interval(value=math.exp(middle), low=math.exp(middle - reach), high=math.exp(middle + reach))

    def spread(
        self, scaled: float, predicted: Mapping[str, float] | None = None, run: bool = True, alone: float = 0.0
    ) -> float:
        """The deviation of what is measured around `loss`, in logarithms."""
        shares = np.zeros(len(self.families))
        if predicted:
            at = [self.scales[family] * predicted.get(family, 0.0) / scaled for family in self.families]
            shares = np.array(at)
        exponent = math.exp(self.theta[1])
        bend = exponent * (math.log(scaled) - PIVOT)
        slope = np.array([1.0, bend, float(run), float(run), *(exponent * shares)])
        unsure = float(slope @ self.covariance @ slope)
        return math.sqrt(max(unsure, 0.0) + self.deviation**2 + self.floor**2 + LAYER**2 * alone)

    def chance(self, tolerance: float, scaled: float, predicted: Mapping[str, float], alone: float = 0.0) -> float:
        """How likely a run loses at most `tolerance`."""
        from scipy.special import stdtr

        if scaled <= 0:
            return 1.0
        off = math.log(max(tolerance, TINIEST) / self.loss(scaled).value)
        return float(stdtr(self.freedom, off / self.spread(scaled, predicted, alone=alone)))

    def sum_within(self, tolerance: float, run: bool = True) -> float:
        """The largest scaled sum whose expected loss is at most `tolerance`; not `run`: on the profile's samples."""
        low, high = math.log(TINIEST) - 30, 60.0
        target = math.log(max(tolerance, TINIEST))
        for _ in range(100):
            middle = (low + high) / 2
            if self._log_loss(np.array([middle]), run)[0] <= target:
                low = middle
            else:
                high = middle
        return math.exp(low)

    @cached_property
    def _reach(self) -> float:
        return _quantile(self.freedom)

    def _log_loss(self, log_sums: Floats, run: bool) -> Floats:
        line = _line(self.theta, log_sums) + (float(self.theta[2:COMMON].sum()) if run else 0.0)
        corrected = line if self.knots is None else line + np.interp(log_sums, *self.knots)
        return np.asarray(corrected, dtype=np.float64)

    def _corrected(self, data: _Data) -> LossFit:
        """With the isotonic correction in the share that leaves least of the measurements it has not seen."""
        # what was measured at one place, on the samples of both splits for one, is one measurement there
        logs = np.round(np.log(data.predicted @ np.exp(self.theta[COMMON:])), 6)
        found: tuple[Floats, Whole] = np.unique(logs, return_inverse=True)
        sums, place = found
        if len(sums) < 4:
            return self
        weight: Floats = np.bincount(place, data.weight).astype(np.float64)
        wanted = np.bincount(place, data.weight * (data.loss - data.apart @ self.theta[2:COMMON])) / weight
        line = _line(self.theta, sums)
        whole = isotonic(wanted, weight) - line

        def unseen(i: int) -> float:
            """The correction at a measurement, of all others."""
            rest = np.arange(len(sums)) != i
            return float(np.interp(sums[i], sums[rest], isotonic(wanted[rest], weight[rest]) - line[rest]))

        others = np.array([unseen(i) for i in range(len(sums))])
        left = {share: float(weight @ (wanted - line - share * others) ** 2) for share in (0.0, 0.5, 1.0)}
        share = min(left, key=lambda each: (left[each], each))
        if not share:
            return self
        residuals = (data.loss - data.apart @ self.theta[2:COMMON]) - (line + share * others)[place]
        deviation = min(self.deviation, _deviation(residuals, data.weight))
        return replace(self, knots=(sums, share * whole), deviation=deviation)


@dataclass(frozen=True)
class PointsFit:
    """factor · loss^exponent points are lost, give or take the samples that happen to change sides.

    Of n samples each is a `step` of 100 / n points, and as many change sides as points are lost at least: the variance
    is `dispersion` · step · (points + step). Where nothing was lost, half a sample is taken for lost at the largest
    loss that was measured: beyond it nobody knows.
    """

    factor: float
    exponent: float
    step: float
    dispersion: float
    unsure: float  # variance of the factor
    freedom: float
    most: float  # points that can be lost

    @classmethod
    def of(cls, profile: ProfileFacts) -> PointsFit | PerplexityFit | None:
        """None where no metric with labels was measured, or no perplexity that grew."""
        known = [one for one in profile.measured if one.points is not None and math.isfinite(one.loss)]
        if not known:
            return None
        loss = np.array([max(one.loss, 0.0) for one in known])
        points = np.array([one.points for one in known], dtype=np.float64)
        weight = np.array([RUN_WEIGHT if one.run_id is not None else 1.0 for one in known])
        if profile.task in PERPLEXITY:
            return PerplexityFit.of(loss, points, weight)
        step = 100 / max(profile.samples, 1)
        exponents = EXPONENTS if (points > 0).any() else EXPONENTS[-1:]
        most = ALL_POINTS if profile.unit == "nats" else math.inf  # else they are a squared error
        fits = [_scaled_power(loss, points, weight, exponent, step, most) for exponent in exponents]
        return min(fits, key=lambda fit: fit.dispersion)

    def points(self, loss: Interval) -> Interval:
        """What is lost of the metric where the loss is this."""
        if loss.value <= 0:
            return ZERO
        value, low, high = (self.factor * each**self.exponent for each in (loss.value, loss.low, loss.high))
        variance = self.dispersion * self.step * (value + self.step) + self.unsure * loss.value ** (2 * self.exponent)
        reach = _quantile(self.freedom) * math.sqrt(variance)
        ends = value - math.hypot(reach, value - low), value + math.hypot(reach, high - value)
        low, value, high = (max(-self.most, min(each, self.most)) for each in (ends[0], value, ends[1]))
        return Interval(value=value, low=low, high=high)

    def loss_within(self, points: float) -> float:
        """The largest loss at which no more points are expected to be lost."""
        return float((points / self.factor) ** (1 / self.exponent))


@dataclass(frozen=True)
class PerplexityFit:
    """factor · (e^loss - 1) of a perplexity is added: it is the exponential of what a token costs, in nats, and a token
    costs about the divergence more. So the factor is about the original's perplexity, give or take `deviation`, in
    logarithms."""

    factor: float
    deviation: float
    freedom: float

    @classmethod
    def of(cls, loss: Floats, points: Floats, weight: Floats) -> PerplexityFit | None:
        """None where it grew nowhere."""
        grew = (points > 0) & (loss > 0)
        if not grew.any():
            return None
        logs = np.log(points[grew] / np.expm1(loss[grew]))
        told = weight[grew] * np.minimum(loss[grew] / CLEAR, 1.0)
        middle = float(told @ logs) / float(told.sum())
        squares, count = float(told @ (logs - middle) ** 2), float(told.sum())
        deviation = math.sqrt((TYPICAL_COUNT * TYPICAL**2 + squares) / (TYPICAL_COUNT + count))
        spread = math.hypot(deviation * math.sqrt(1 + 1 / count), OF_RUNS)
        return cls(math.exp(middle), spread, TYPICAL_COUNT + len(logs) - 1)

    def points(self, loss: Interval) -> Interval:
        """What is added to the perplexity where the loss is this."""
        if loss.value <= 0:
            return ZERO
        value, low, high = (self.factor * math.expm1(min(each, MOST)) for each in (loss.value, loss.low, loss.high))
        reach = _quantile(self.freedom) * self.deviation
        below, above = (math.hypot(reach, math.log(end / value)) for end in (low, high))
        return Interval(value=value, low=value * math.exp(-below), high=value * math.exp(above))

    def loss_within(self, points: float) -> float:
        """The largest loss at which no more is expected to be added."""
        return math.log1p(points / self.factor)


def _scaled_power(loss: Floats, points: Floats, weight: Floats, exponent: float, step: float, most: float) -> PointsFit:
    powers, factor = loss**exponent, 0.0
    for _ in range(5):
        precision = weight / (step * (factor * powers + step))
        factor = max(0.0, float(precision @ (powers * points)) / max(float(precision @ powers**2), 1e-300))
    factor = max(factor, step / 2 / max(float(powers.max()), TINIEST))
    left = float(precision @ (points - factor * powers) ** 2)
    freedom = TYPICAL_COUNT + max(len(points) - 1, 0)
    dispersion = (TYPICAL_COUNT + left) / (TYPICAL_COUNT + max(float(weight.sum()) - 1, 0.0))
    unsure = dispersion / max(float(precision @ powers**2), 1e-300)
    return PointsFit(factor, exponent, step, max(dispersion, 1.0), unsure, freedom, most)


def _quantile(freedom: float) -> float:
    """Deviations to either side of the middle that hold 80 % of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + COVERED) / 2))


def _usable(measured: Sequence[Measurement], families: Sequence[str]) -> _Data:
    rows: list[tuple[list[float], float, tuple[float, float]]] = []
    for one in measured:
        given = [float(one.predicted.get(family, 0.0)) for family in families]
        run = float(one.run_id is not None)
        for loss, apart in ((one.loss, (run, run)), (one.evaluated, (1.0, run))):
            if loss is not None and loss > TINIEST and sum(given) > TINIEST and math.isfinite(loss + sum(given)):
                rows.append((given, math.log(loss), apart))
    predicted = np.array([given for given, _, _ in rows]).reshape(len(rows), len(families))
    marks = np.array([apart for _, _, apart in rows], dtype=np.float64).reshape(len(rows), 2)
    return _Data(predicted, np.array([loss for _, loss, _ in rows]), marks)


def _power_law(data: _Data, families: int) -> tuple[Floats, Floats, float, float]:
    """(theta, its covariance, the deviation of an unseen measurement, its degrees of freedom).

    Gauss-Newton steps; measurements that are far off count less at each (Student's t), and the deviation is that of
    residuals without their own measurement, r / (1 - leverage).
    """
    prior = np.array([LEVEL, EXPONENT, SPLIT, STEPS, *[SCALE] * families]) ** -2.0
    usual = np.array([0.0, 0.0, 0.0, MORE, *[0.0] * families])
    theta, deviation = usual, TYPICAL
    covariance: Any = np.diag(1 / prior)
    trust = np.ones(len(data.loss))
    for _ in range(ROUNDS if len(data.loss) else 0):
        jacobian, residual = _slopes(data, theta)
        precision = data.weight * trust / max(deviation, 1e-4) ** 2
        covariance = np.linalg.inv(jacobian.T @ (precision[:, None] * jacobian) + np.diag(prior))
        step = covariance @ (jacobian.T @ (precision * residual) - prior * (theta - usual))
        theta = theta + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        jacobian, residual = _slopes(data, theta)
        leverage = np.minimum(precision * np.einsum("ij,jk,ik->i", jacobian, covariance, jacobian), 0.9)
        unseen = residual / (1 - leverage)
        trust = (HEAVY + 1) / (HEAVY + data.weight * (residual / max(deviation, 1e-4)) ** 2)
        trust = np.minimum(trust, 1.0)
        deviation = _deviation(unseen, data.weight)
    freedom = TYPICAL_COUNT + max(len(data.loss) - 2, 0)
    return theta, covariance, deviation, freedom


def _slopes(data: _Data, theta: Floats) -> tuple[Floats, Floats]:
    """(the derivatives of each prediction by the coefficients, what each measurement is above it)."""
    exponent, parts = math.exp(theta[1]), data.predicted * np.exp(theta[COMMON:])
    total = parts.sum(1)
    logs = np.log(total)
    common = [np.ones_like(logs), exponent * (logs - PIVOT), *data.apart.T]
    slopes = np.stack([*common, *(exponent * parts / total[:, None]).T], 1)
    return slopes, data.loss - _line(theta, logs) - data.apart @ theta[2:COMMON]


def _line(theta: Floats, log_sums: Floats) -> Floats:
    """The power law, as logarithms."""
    level, log_exponent = float(theta[0]), float(theta[1])
    return PIVOT + level + math.exp(log_exponent) * (log_sums - PIVOT)


def _deviation(unseen: Floats, weight: Floats) -> float:
    """Of residuals of unseen measurements, drawn towards the typical one while there are few; outliers count little."""
    typical = min(TYPICAL, float(np.sqrt(np.median(unseen**2))) * 3) if len(unseen) > 3 else TYPICAL
    limited = np.minimum(unseen**2, 9 * max(float(np.median(unseen**2)), 1e-12) * 2.2)
    return math.sqrt((TYPICAL_COUNT * typical**2 + float(weight @ limited)) / (TYPICAL_COUNT + float(weight.sum())))
