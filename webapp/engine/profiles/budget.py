"""A budget: a goal, solved on a profile; its answer is a recipe, its bytes and its expected loss."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
from pydantic import Field, ValidationError, model_validator

from webapp.engine.errors import BudgetInvalid, quoted, some
from webapp.engine.facts import CheckpointFacts, Facts
from webapp.engine.recipe import Recipe, invalid
from webapp.engine.techniques import Skip
from webapp.engine.weights import StoragePlan
from webapp.units import byte_text, significant

from .cuts import by_unit, cut_facts, cut_profile, touched
from .facts import KEPT, Cut, LayerOptions, LossUnit, Option, ProfileFacts
from .fit import TINIEST, Interval, LossFit, PointsFit
from .knapsack import HullPath, Whole, cheapest, path, total
from .menu import Floats, Menu
from .recipes import RecipeWriter

FRONT = 40  # points of the chart
CUT_SIZES = 6  # over the whole range, at which it is looked for the best cuts
MOST_CUT, UNITS = 64, 6  # combinations of cuts that are looked at, of the largest units
NEAR = 2  # steps of a unit's cuts, at a time
TRIED = 3  # of them for a goal
TRIES = 6  # at the exact size
MARGIN = 1e-4  # of the goal, left at the first try for what a header may grow
FINE = 5e-4  # of the goal: nearer to it nobody looks
REMEMBERED = 16  # limits, for a slider that moves


class BudgetGoal(Facts):
    """A size, a tolerance, or both: then the best within both."""

    bytes: int | None = Field(None, gt=0, lt=2**63, description="Of Pare's file, at most.")
    ratio: float | None = Field(None, gt=0, description="Of the original file: 0.25 and 4 are both a quarter of it.")
    loss: float | None = Field(None, ge=0, description="Expected, at most, in the profile's unit.")
    points: float | None = Field(None, ge=0, description="Of the metric with labels, at most: 0.5 is half a per cent.")

    @model_validator(mode="after")
    def _reachable(self) -> BudgetGoal:
        sizes, tolerances = (self.bytes, self.ratio), (self.loss, self.points)
        if sizes.count(None) == 0 or tolerances.count(None) == 0:
            raise ValueError("it names a size once (bytes or ratio) and a tolerance once (loss or points)")
        if sizes.count(None) + tolerances.count(None) == 4:
            raise ValueError("it names a size (bytes or ratio), a tolerance (loss or points), or both")
        return self

    @classmethod
    def read(cls, data: Any) -> BudgetGoal:
        """A goal from plain data. Raises BudgetInvalid."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            found = invalid(error, "goal")
            raise BudgetInvalid(found.message, found.field) from None

    def size(self, original: int) -> int | None:
        """In bytes."""
        if self.ratio is None:
            return self.bytes
        return int(original * self.ratio if self.ratio <= 1 else original / self.ratio)


class ExpectedLoss(Interval):
    unit: LossUnit


class Expected(Facts):
    loss: ExpectedLoss
    points: Interval | None = None
    chance: float | None = None  # of staying within the goal's tolerance


class Chosen(Facts):
    name: str
    option: int
    label: str
    family: str
    bytes: int
    loss: float


class ChosenCut(Facts):
    unit: str
    label: str
    family: str
    loss: float


class FrontPoint(Facts):
    size_bytes: int
    loss: float
    low: float
    high: float


class Budget(Facts):
    """`recipe` as plain data; None where nothing has to change. `size_bytes` is what the run's file has at most."""

    recipe: dict[str, Any] | None
    size_bytes: int
    expected: Expected
    layers: tuple[Chosen, ...]
    cuts: tuple[ChosenCut, ...] = ()
    front: tuple[FrontPoint, ...]


@dataclass(frozen=True)
class Limits:
    """What may be chosen. `families`: None for all; `locks`: the option of a layer; `holds`: whether a format does."""

    families: Collection[str] | None = None
    locks: Mapping[str, int] = field(default_factory=dict)
    holds: Callable[[LayerOptions, Option], bool] | None = None


ANYTHING = Limits()


Kept = TypeVar("Kept")


class _Latest(Generic[Kept]):
    """What was worked out last, by key, at most REMEMBERED of it. The web process asks from many threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._lock = Lock()

    def of(self, key: bytes, make: Callable[[], Kept]) -> Kept:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = make()
        with self._lock:
            self._kept[key] = found
            if len(self._kept) > REMEMBERED:
                self._kept.popitem(last=False)
        return found


@dataclass(frozen=True)
class _Allowed:
    """What limits leave: `costs` (layers, options), scaled losses, infinite where an option may not be chosen."""

    costs: Floats
    path: HullPath
    least: list[int]  # the choice of the smallest file
    least_bytes: int


class Solver:
    """Budgets on one profile. What no goal changes is remembered: keep it for as long as the profile is asked.

    A profile with more measurements has other fits, and needs another solver. What cuts leave of a model is a profile
    too (`cuts.cut_profile`), with a solver of its own that this one asks: `after` is the recipe of what came before.
    """

    def __init__(self, profile: ProfileFacts, facts: CheckpointFacts, after: Recipe | None = None) -> None:
        self.profile, self.facts, self.after = profile, facts, after
        self.menu, self.fit, self.points_fit = Menu(profile, facts), LossFit.of(profile), PointsFit.of(profile)
        self._writer = RecipeWriter(facts)
        self._rows = {layer.name: row for row, layer in enumerate(profile.layers)}
        self._remembered = _Latest[_Allowed]()
        self._cut: dict[str, Solver | None] = {}
        self._fronts = _Latest[tuple[FrontPoint, ...]]()
        self._plans: dict[tuple[object, ...], StoragePlan | None] = {}
        self._candidates = _Latest[tuple[Solver, ...]]()
        self.least_uniform = _Latest[int | None]()  # by `uniform.least_uniform`

    def solve(self, goal: BudgetGoal, limits: Limits = ANYTHING) -> Budget:
        """The options with the least expected loss within a size, else with the least size within a tolerance.

        Raises BudgetInvalid with the least that can be reached and with what stands in the way.
        """
        size, loss = goal.size(self.facts.weights_bytes), self._tolerance(goal)
        solver, choice = self._solved(limits, size, loss)
        if size is not None and loss is not None and (least := solver.expected(choice).loss.value) > loss:
            raise BudgetInvalid(
                f"Within {byte_text(size)} the expected loss is at least {self._text(least)}, and "
                f"{self._text(loss)} is asked; allow a larger file or a larger loss.",
                "goal",
            )
        return solver.answer(choice, loss, self._whole_front(limits))

    def _solved(self, limits: Limits, size: int | None, loss: float | None) -> tuple[Solver, list[int]]:
        """The best choice, and whose: the solver's of a profile after cuts, or this one's."""
        solvers = self._worth(limits)
        if size is None:
            assert loss is not None
            reaching = [each for each in solvers if each._bytes_within(limits, loss) < math.inf]
            able = sorted(reaching, key=lambda each: each._bytes_within(limits, loss))[:TRIED] or [self]
            found = [(each, each._smallest(each._allowed(limits), limits, loss)) for each in able]
            return min(found, key=lambda one: one[0].menu.size(one[1]))
        if (least := self.smallest(limits)) > size:
            raise BudgetInvalid(
                f"The smallest file that is possible here has {byte_text(least)}, and {byte_text(size)} "
                f"are asked{self._freed(limits, self.smallest, byte_text)}.",
                "goal",
            )
        fitting = [each for each in solvers if each._allowed(limits).least_bytes <= size]
        able = sorted(fitting, key=lambda each: each._loss_within(limits, size))[:TRIED]
        found = [(each, each._best(each._allowed(limits), size)) for each in able]
        return min(found, key=lambda one: total(one[0]._allowed(limits).costs, np.array(one[1])))

    def _worth(self, limits: Limits) -> tuple[Solver, ...]:
        """This solver, and those after the cuts that are the best at some size, as coordinate descent finds them.

        It looks at no more than MOST_CUT combinations of the UNITS with most bytes: each is a profile of its own.
        """
        units = self._units(limits)
        if not units:
            return (self,)
        key = self.costs(limits).tobytes() + _named(cuts[0] for cuts in units).encode()
        return self._candidates.of(key, lambda: self._best_after_cuts(limits, units))

    def _best_after_cuts(self, limits: Limits, units: Sequence[Sequence[Cut]]) -> tuple[Solver, ...]:
        looked: dict[str, Solver] = {_named(()): self}

        def solver_after(taken: tuple[Cut | None, ...]) -> Solver | None:
            cuts = tuple(cut for cut in taken if cut is not None)
            name = _named(cuts)
            if name not in looked and len(looked) < MOST_CUT and (found := self.without(cuts)) is not None:
                looked[name] = found
            return looked.get(name)

        def descended(taken: tuple[Cut | None, ...], cost: Callable[[Solver], float]) -> tuple[Cut | None, ...]:
            at = solver_after(taken)
            least = math.inf if at is None else cost(at)
            better = True
            while better:
                better = False
                for place, cuts in enumerate(units):
                    every = (None, *cuts)
                    now_at = next(number for number, cut in enumerate(every) if cut is taken[place])
                    for cut in every[max(0, now_at - NEAR) : now_at + NEAR + 1]:
                        other = (*taken[:place], cut, *taken[place + 1 :])
                        if (there := solver_after(other)) is not None and (now := cost(there)) < least:
                            taken, least, better = other, now, True
            return taken

        most = solver_after(tuple(max(cuts, key=lambda cut: cut.loss) for cuts in units)) or self
        end = min(each._allowed(limits).least_bytes for each in (self, most))
        taken: tuple[Cut | None, ...] = (None,) * len(units)
        for size in np.geomspace(self.facts.weights_bytes, end, CUT_SIZES).tolist():
            taken = descended(taken, lambda solver, size=size: solver._loss_within(limits, size))  # type: ignore[misc]
        descended(taken, lambda solver: solver._allowed(limits).least_bytes)
        return tuple(looked.values())

    def _units(self, limits: Limits) -> list[list[Cut]]:
        """The cuts that may be taken, by unit, the units that most layers' bytes hang on first."""
        found: list[tuple[int, list[Cut]]] = []
        for unit, cuts in by_unit(self.profile).items():
            if limits.families is None or cuts[0].family in limits.families:
                reached = self._reached[unit]
                if reached and not reached & limits.locks.keys():
                    size = sum(self.profile.layers[self._rows[name]].options[0].bytes for name in reached)
                    found.append((size, cuts))
        return [cuts for _, cuts in sorted(found, key=lambda one: -one[0])[:UNITS]]

    @cached_property
    def _reached(self) -> dict[str, frozenset[str]]:
        """By unit the names of the layers that its cuts change; none where they cannot be done."""
        found = {}
        for unit, cuts in by_unit(self.profile).items():
            try:
                found[unit] = frozenset(touched(self.facts, self.profile, cuts[0]))
            except Skip:
                found[unit] = frozenset()
        return found

    def _loss_within(self, limits: Limits, size: float) -> float:
        """About the least scaled loss within a size, from the path alone; infinite where nothing is as small."""
        allowed = self._allowed(limits)
        along, steps = allowed.path, allowed.path.within(size - allowed.least_bytes + float(allowed.path.weights[-1]))
        if steps is None:
            return math.inf
        if not steps:
            return float(along.costs[0])
        spare = size - allowed.least_bytes + float(along.weights[-1] - along.weights[steps])
        return float(along.costs[steps] - along.slopes[steps - 1] * spare)

    def _bytes_within(self, limits: Limits, loss: float) -> float:
        """About the least bytes within an expected loss, from the path alone."""
        allowed = self._allowed(limits)
        steps = int(np.searchsorted(allowed.path.costs, self.fit.sum_within(loss), "right")) - 1
        if steps < 0:
            return math.inf
        return float(allowed.path.weights[steps] - allowed.path.weights[-1] + allowed.least_bytes)

    def _whole_front(self, limits: Limits) -> tuple[FrontPoint, ...]:
        """The least loss at sizes over the whole range, ascending; with cuts where they lose less."""
        solvers = self._worth(limits)
        key = self.costs(limits).tobytes() + bytes(len(solvers))
        return self._fronts.of(key, lambda: self._front_of(solvers, limits))

    def _front_of(self, solvers: Sequence[Solver], limits: Limits) -> tuple[FrontPoint, ...]:
        found = self._front(limits)
        if len(solvers) == 1:
            return found
        least = min(each._allowed(limits).least_bytes for each in solvers)
        points = []
        for size in np.geomspace(least, max(found[-1].size_bytes, least), FRONT).tolist():
            best = min(solvers, key=lambda each, size=size: each._loss_within(limits, size))  # type: ignore[misc]
            along, ends = best._allowed(limits).path, best._allowed(limits).least_bytes
            steps = along.within(size - ends + float(along.weights[-1]))
            points.append(best._point(along, len(along.rows) if steps is None else steps, ends))
        return (*(one for one, after in pairwise(points) if after.loss < one.loss), points[-1])

    def answer(
        self, choice: Sequence[int], tolerance: float | None = None, front: tuple[FrontPoint, ...] = ()
    ) -> Budget:
        """This choice, whoever made it, as a budget is told."""
        recipe = self._writer.recipe(self.profile, choice)
        steps = [step for made in (self.after, recipe) if made is not None for step in made.steps]
        cuts = [layer for layer in self.profile.layers if not layer.layers]
        return Budget(
            recipe=Recipe(steps=tuple(steps)).as_dict() if steps else None,
            size_bytes=self.menu.size(choice),
            expected=self.expected(choice, tolerance),
            layers=tuple(self._told(choice)),
            cuts=tuple(
                ChosenCut(unit=cut.name, label=made.label, family=made.family, loss=made.loss)
                for cut in cuts
                for made in cut.options
            ),
            front=front,
        )

    def without(self, cuts: Sequence[Cut]) -> Solver | None:
        """The solver of what these cuts leave; None where they cannot be done together.

        Its choices have one place more for each cut, which is 0.
        """
        key = _named(cuts)
        if key not in self._cut:
            found = None
            try:
                left = cut_facts(self.facts, cuts)
            except Skip:
                pass
            else:
                smaller = cut_profile(self.profile, self.facts, cuts, left, self._plans)
                found = Solver(smaller, left, self._writer.cutting(cuts))
                found.menu.known = self.menu.known
                found.fit, found.points_fit = self.fit, self.points_fit
            self._cut[key] = found
        return self._cut[key]

    def smallest(self, limits: Limits = ANYTHING) -> int:
        """The bytes of the smallest file that is possible."""
        return min(each._allowed(limits).least_bytes for each in self._worth(limits))

    def expected(self, choice: Sequence[int], tolerance: float | None = None) -> Expected:
        """What a run of this choice will lose."""
        predicted = self.predicted(choice)
        scaled = self.fit.scaled(predicted)
        alone = self._alone(choice)
        loss = self.fit.loss(scaled, predicted, alone=alone)
        points = None if self.points_fit is None else self.points_fit.points(loss)
        chance = None if tolerance is None else self.fit.chance(tolerance, scaled, predicted, alone)
        return Expected(loss=ExpectedLoss(**dict(loss), unit=self.profile.unit), points=points, chance=chance)

    def predicted(self, choice: Sequence[int]) -> dict[str, float]:
        """The sum of the options' losses by family, as a `Measurement` has it."""
        taken = self._family[self._every, choice], self.menu.losses[self._every, choice]
        sums = np.bincount(taken[0], taken[1], len(self.fit.families) + 1)[1:]
        return dict(zip(self.fit.families, sums.tolist(), strict=True))

    def _alone(self, choice: Sequence[int]) -> float:
        """How far the expected loss is that of few layers: 1 where it is that of one, 1 / n of n alike."""
        losses = self.menu.losses[self._every, choice] * self._scales[self._family[self._every, choice]]
        return float(losses @ losses) / max(float(losses.sum()), TINIEST) ** 2

    @cached_property
    def _scales(self) -> Floats:
        """By the places of `_family`."""
        return np.array([1.0, *(self.fit.scales[family] for family in self.fit.families)])

    @cached_property
    def _every(self) -> Whole:
        return np.arange(len(self.profile.layers))

    @cached_property
    def _family(self) -> Whole:
        """(layers, options) the place of an option's family among the fit's, from 1; 0 of what is kept."""
        places = {family: place for place, family in enumerate((KEPT, *self.fit.families))}
        found = np.zeros(self.menu.losses.shape, dtype=np.int64)
        for row, layer in enumerate(self.profile.layers):
            found[row, : len(layer.options)] = [places[option.family] for option in layer.options]
        return found

    def _told(self, choice: Sequence[int]) -> Iterator[Chosen]:
        for layer, number in zip(self.profile.layers, choice, strict=True):
            if not layer.layers:  # a cut
                continue
            option = layer.options[number]
            yield Chosen.model_construct(
                name=layer.name,
                option=number,
                label=option.label,
                family=option.family,
                bytes=option.bytes,
                loss=option.loss,
            )

    def _allowed(self, limits: Limits) -> _Allowed:
        costs = self.costs(limits)

        def found() -> _Allowed:
            along = path(self.menu.bytes, costs)
            least: list[int] = along.choice(len(along.rows)).tolist()
            return _Allowed(costs, along, least, self.menu.size(least))

        return self._remembered.of(costs.tobytes(), found)

    def costs(self, limits: Limits) -> Floats:
        """(layers, options) losses, scaled; infinite where an option may not be chosen.

        Raises BudgetInvalid where limits name what the profile does not have.
        """
        names = self.fit.families if limits.families is None else limits.families
        if unknown := sorted(set(names) - {KEPT, *self.fit.families}):
            there = some(self.fit.families)
            raise BudgetInvalid(f"The profile has no family {quoted(unknown[0])}; it has {there}.", "families")
        on = np.array([True, *(family in names for family in self.fit.families)])
        scaled = self._scales[self._family] * self.menu.losses
        costs = np.where(on[self._family], scaled, np.inf)
        if limits.holds is not None:
            for row, layer in enumerate(self.profile.layers):
                for number, option in enumerate(layer.options[1:], 1):
                    if not limits.holds(layer, option):
                        costs[row, number] = np.inf
        for name, number in limits.locks.items():
            if (locked := self._rows.get(name)) is None:
                raise BudgetInvalid(f"The profile has no layer {quoted(name)}.", "locks")
            last = len(self.profile.layers[locked].options) - 1
            if not 0 <= number <= last:
                raise BudgetInvalid(f"{name} has options 0 to {last}, and no option {number}.", f"locks.{name}")
            costs[locked] = np.inf
            costs[locked, number] = scaled[locked, number]
        return costs

    def _best(self, allowed: _Allowed, size: int) -> list[int]:
        """The choice with the least loss within a size that some choice is in."""
        best = allowed.least
        limit = float((1 - MARGIN) * size - allowed.least_bytes + allowed.path.weights[-1])
        for _ in range(TRIES):
            found = cheapest(self.menu.bytes, allowed.costs, limit, allowed.path)
            if found is None:
                break
            choice: list[int] = found.tolist()
            exact = self.menu.size(choice)
            if exact <= size and total(allowed.costs, found) < total(allowed.costs, np.array(best)):
                best = choice
            # what a file holds beside the options' own bytes differs a little from choice to choice
            before, limit = limit, float(size - exact + total(self.menu.bytes, found))
            if exact <= size and limit - before < FINE * size:
                break
        return best

    def _smallest(self, allowed: _Allowed, limits: Limits, tolerance: float) -> list[int]:
        """The choice with the least size within an expected loss."""
        bytes_ = np.where(allowed.costs < np.inf, self.menu.bytes, np.inf)
        found = cheapest(allowed.costs, bytes_, self.fit.sum_within(tolerance))
        if found is None:
            raise BudgetInvalid(
                f"The least expected loss that is possible here is {self._text(self._least_loss(limits))}, and "
                f"{self._text(tolerance)} is asked{self._freed(limits, self._least_loss, self._text)}.",
                "goal",
            )
        choice: list[int] = found.tolist()
        return choice

    def _least_loss(self, limits: Limits) -> float:
        return self.fit.loss(float(self.costs(limits).min(1).sum())).value

    def _freed(self, limits: Limits, least: Callable[[Limits], float], text: Callable[[float], str]) -> str:
        """What the least would be without each thing that stands in the way, as the end of a sentence."""
        ways = {
            "without the locks": replace(limits, locks={}),
            "with every family": replace(limits, families=None),
            "in other formats": replace(limits, holds=None),
        }
        now = least(limits)
        found = [f"{way} {text(best)}" for way, freed in ways.items() if (best := least(freed)) < now]
        return f"; {', '.join(found)}" if found else ""

    def _tolerance(self, goal: BudgetGoal) -> float | None:
        """The expected loss that a goal allows. Raises BudgetInvalid where points say nothing of it."""
        if goal.points is None:
            return goal.loss
        if self.points_fit is None:
            raise BudgetInvalid(
                "The profile measured no metric with labels, so nothing says how many points are lost; set a loss.",
                "goal.points",
            )
        return self.points_fit.loss_within(goal.points)

    def _text(self, loss: float) -> str:
        return f"{significant(loss)} {self.profile.unit}"

    def _front(self, limits: Limits) -> tuple[FrontPoint, ...]:
        """Without cuts."""
        along, least_bytes = self._allowed(limits).path, self._allowed(limits).least_bytes
        sizes = along.weights + (least_bytes - along.weights[-1])
        # as many points where files are small as where they are large
        wanted = np.geomspace(sizes[-1], sizes[0], FRONT).clip(sizes[-1], sizes[0])
        steps = np.unique(len(sizes) - np.searchsorted(sizes[::-1], wanted, "right"))
        return tuple(self._point(along, step, least_bytes) for step in steps[::-1].tolist())

    def _point(self, along: HullPath, step: int, least_bytes: int) -> FrontPoint:
        """After so many steps; `least_bytes` are those of the path's end."""
        choice = along.choice(step).tolist()
        predicted = self.predicted(choice)
        loss = self.fit.loss(self.fit.scaled(predicted), predicted, alone=self._alone(choice))
        size = round(float(along.weights[step] - along.weights[-1]) + least_bytes)
        return FrontPoint(size_bytes=size, loss=loss.value, low=loss.low, high=loss.high)


def _named(cuts: Iterable[Cut]) -> str:
    return json.dumps([(cut.unit, cut.label) for cut in cuts])
