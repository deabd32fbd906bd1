"""A budget: a goal, solved on a profile; its answer is a recipe, its bytes and its expected loss."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from webapp.engine.errors import BudgetInvalid, quoted, some
from webapp.engine.facts import CheckpointFacts
from webapp.engine.recipe import Recipe
from webapp.engine.techniques import Skip
from webapp.units import byte_text, significant

from .cut_rows import CutRows
from .cut_search import Combination, CutSearch, units_to_cut
from .cuts import cut_facts
from .facts import KEPT, Cut, LayerOptions, Option, ProfileFacts
from .file_sizes import OWN, FileSizes
from .fit import TINIEST, LossFit, PerplexityFit, PointsFit
from .goal import (
    ANYTHING,
    Budget,
    BudgetGoal,
    Chosen,
    ChosenCut,
    Expected,
    ExpectedLoss,
    FrontPoint,
    Limits,
)
from .knapsack import HullPath, Whole, cheapest, path, total
from .latest import Latest
from .menu import Floats, Menu, MenuRow
from .recipes import RecipeWriter

Mask = np.ndarray[Any, np.dtype[np.bool_]]
FRONT = 40  # points of the chart
TRIED = 3  # combinations of cuts that are solved for a goal
NEARLY = 1e-3  # of a size: by as much the size of what cuts leave is off before it is solved
TRIES = 6  # at the exact size
MARGIN = 1e-4  # of the goal, left at the first try for what a header may grow
FINE = 5e-4  # of the goal: nearer to it nobody looks


@dataclass(frozen=True)
class _Allowed:
    """What limits leave: `costs` (layers, options), scaled losses, infinite where an option may not be chosen."""

    costs: Floats
    path: HullPath
    least: list[int]  # the choice of the smallest file
    least_bytes: int


@dataclass(frozen=True)
class _AfterCuts:
    """What a solver after cuts is given by the one before: the recipe that makes them, the menu's rows, the fits."""

    recipe: Recipe | None
    rows: Sequence[MenuRow]
    fits: tuple[LossFit, PointsFit | PerplexityFit | None]


class Solver:
    """Budgets on one profile. What no goal changes is remembered: keep it for as long as the profile is asked.

    A profile with more measurements has other fits, and needs another solver. What cuts leave of a model has a solver
    of its own, which this one makes: `cut` says of what. `sizes`: of which file a goal's bytes are.
    """

    def __init__(
        self, profile: ProfileFacts, facts: CheckpointFacts, cut: _AfterCuts | None = None, sizes: FileSizes = OWN
    ) -> None:
        self.profile, self.facts, self.after, self.sizes = profile, facts, None if cut is None else cut.recipe, sizes
        self.menu = Menu(profile, facts, None if cut is None else cut.rows, sizes)
        self.fit, self.points_fit = (LossFit.of(profile), PointsFit.of(profile)) if cut is None else cut.fits
        self._rows = {layer.name: row for row, layer in enumerate(profile.layers)}
        self._remembered = Latest[_Allowed]()
        self._cut: dict[str, Solver | None] = {}
        self._fronts = Latest[tuple[FrontPoint, ...]]()
        self._candidates = Latest[tuple[Combination, ...]]()
        self.least_uniform = Latest[int | None]()  # by `uniform.least_uniform`

    @cached_property
    def _writer(self) -> RecipeWriter:
        return RecipeWriter(self.facts)

    @cached_property
    def _cut_rows(self) -> CutRows:
        return CutRows(self.profile, self.facts, self.menu)

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
        """The best choice, and whose: the solver's of what cuts leave, or this one's."""
        if size is None:
            assert loss is not None
            return self._smallest_within(limits, loss)
        if (least := self.smallest(limits)) > size:
            raise BudgetInvalid(
                f"The smallest file that is possible here has {byte_text(least)}, and {byte_text(size)} "
                f"are asked{self._freed(limits, self.smallest, byte_text)}.",
                "goal",
            )
        best: tuple[float, Solver, list[int]] | None = None
        near = [each for each in self._worth(limits) if each.least_bytes <= (1 + NEARLY) * size]
        tried = 0
        for each in sorted(near, key=lambda each: each.loss_within(size)):
            if best is not None and (tried == TRIED or each.loss_within(size) >= best[0]):
                break
            solver = self.without(each.cuts)
            if solver is None or (allowed := solver._allowed(limits)).least_bytes > size:
                continue
            tried, choice = tried + 1, solver._best(allowed, size)
            cost = total(allowed.costs, np.array(choice))
            best = (cost, solver, choice) if best is None or cost < best[0] else best
        if best is None:
            solver = self._smallest_file(limits)
            return solver, solver._allowed(limits).least
        return best[1:]

    def _smallest_within(self, limits: Limits, loss: float) -> tuple[Solver, list[int]]:
        """The choice with the least size within an expected loss, and whose."""
        best: tuple[int, Solver, list[int]] | None = None
        scaled, tried = self.fit.sum_within(loss), 0
        for each in sorted(self._worth(limits), key=lambda each: each.bytes_within(scaled)):
            if each.bytes_within(scaled) == math.inf or tried == TRIED:
                break
            if (solver := self.without(each.cuts)) is not None:
                tried, choice = tried + 1, solver._smallest(solver._allowed(limits), limits, loss)
                found = solver.menu.size(choice)
                best = (found, solver, choice) if best is None or found < best[0] else best
        return (self, self._smallest(self._allowed(limits), limits, loss)) if best is None else best[1:]

    def _worth(self, limits: Limits) -> tuple[Combination, ...]:
        """The model without cuts, and what is among the best at some size with them."""
        allowed = self._allowed(limits)
        whole = Combination((), allowed.path, allowed.least_bytes - float(allowed.path.weights[-1]))
        units = units_to_cut(self._cut_rows, limits.families, limits.locks) if self.profile.cuts else []
        if not units:
            return (whole,)

        def found() -> tuple[Combination, ...]:
            scales = self.fit.scales
            search = CutSearch(self._cut_rows, units, whole, allowed.costs, scales.__getitem__, limits.held)
            return search.worth()

        return self._candidates.of(
            allowed.costs.tobytes() + _named(cut for cuts in units for cut in cuts).encode(), found
        )

    def _whole_front(self, limits: Limits) -> tuple[FrontPoint, ...]:
        """The least loss at sizes over the whole range, ascending; with cuts where they lose less."""
        worth = self._worth(limits)
        key = self.costs(limits).tobytes() + _named(cut for each in worth for cut in each.cuts).encode()
        return self._fronts.of(key, lambda: self._front_of(worth, limits))

    def _front_of(self, worth: Sequence[Combination], limits: Limits) -> tuple[FrontPoint, ...]:
        found = self._front(limits)
        if not any(each.cuts for each in worth):
            return found
        least = min(each.least_bytes for each in worth)
        sizes = np.geomspace(least, max(found[-1].size_bytes, least), FRONT)
        table = np.array([each.losses_within(sizes) for each in worth])
        points: list[FrontPoint] = []
        for size, number in zip(sizes.tolist(), table.argmin(0).tolist(), strict=True):
            along, limit = worth[number].along, size - worth[number].beside
            steps = along.within(limit)
            point = self._point(worth[number], len(along.rows) if steps is None else steps)
            if not points or point.loss < points[-1].loss:  # a part of a step is none: a smaller file may lose less
                points.append(point)
        return tuple(points)

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
            format=self.sizes.format,
            own_bytes=self.menu.own_size(choice),
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
        if not cuts:
            return self
        key = _named(cuts)
        if key not in self._cut:
            try:
                self._cut[key] = self._after(cuts)
            except Skip:
                self._cut[key] = None
        return self._cut[key]

    def _after(self, cuts: Sequence[Cut]) -> Solver:
        """Raises Skip where they cannot be done together. Choices keep their names, and are for what layers are now."""
        left = cut_facts(self.facts, cuts)
        weights = {layer.name: layer.weight for layer in left.facts.layers}
        layers, rows = [], []
        for number in range(len(self.profile.layers)):
            if (row := self._cut_rows.row(number, cuts)) is not None:
                layer = self._cut_rows.layer(number, row)
                names = tuple(left.names[name] for name in layer.layers)
                layers.append(layer if names == layer.layers else layer.model_copy(update={"layers": names}))
                rows.append(replace(row.menu, weights=tuple(weights.get(name, name) for name in names)))
        taken = [
            LayerOptions(
                name=cut.unit,
                layers=(),
                kind="other",
                params=0,
                options=(Option(label=cut.label, family=cut.family, bytes=0, loss=cut.loss),),
            )
            for cut in cuts
        ]
        nothing = self.menu.row((), [()], (False,), (0,))
        smaller = self.profile.model_copy(update={"layers": (*layers, *taken), "cuts": ()})
        about = _AfterCuts(self._writer.cutting(cuts), (*rows, *[nothing] * len(cuts)), (self.fit, self.points_fit))
        return Solver(smaller, left.facts, about, self.sizes)

    def smallest(self, limits: Limits = ANYTHING) -> int:
        """The bytes of the smallest file that is possible."""
        return self._smallest_file(limits)._allowed(limits).least_bytes

    def _smallest_file(self, limits: Limits) -> Solver:
        """Whose smallest choice is the smallest."""
        nearest = sorted(self._worth(limits), key=lambda each: each.least_bytes)[:TRIED]
        solvers = [solver for each in nearest if (solver := self.without(each.cuts)) is not None]
        return min((*solvers, self), key=lambda each: each._allowed(limits).least_bytes)

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
        return self._summed(*self._lost(self._every, choice))[0]

    def scaled_losses(self, choice: Sequence[int]) -> list[float]:
        """What each choice of a layer adds to the sum that the expected loss follows."""
        families, losses = self._lost(self._every, choice)
        found: list[float] = (losses * self._scales[families]).tolist()
        return found

    def _alone(self, choice: Sequence[int]) -> float:
        """How far the expected loss is that of few layers: 1 where it is that of one, 1 / n of n alike."""
        return self._summed(*self._lost(self._every, choice))[1]

    def _lost(self, rows: Whole, choice: Whole | Sequence[int]) -> tuple[Whole, Floats]:
        """Of these layers the families of their options, as places, and what those lose."""
        return self._family[rows, choice], self.menu.losses[rows, choice]

    def _summed(self, families: Whole, losses: Floats) -> tuple[dict[str, float], float]:
        """The sums by family, and how far that of all is that of few."""
        sums = np.bincount(families, losses, len(self.fit.families) + 1)[1:]
        scaled = losses * self._scales[families]
        alone = float(scaled @ scaled) / max(float(scaled.sum()), TINIEST) ** 2
        return dict(zip(self.fit.families, sums.tolist(), strict=True)), alone

    @cached_property
    def _places(self) -> dict[str, int]:
        return {family: place for place, family in enumerate((KEPT, *self.fit.families))}

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
        places = self._places
        found = np.zeros(self.menu.losses.shape, dtype=np.int64)
        for row, layer in enumerate(self.profile.layers):
            found[row, : len(layer.options)] = [places[option.family] for option in layer.options]
        return found

    def _told(self, choice: Sequence[int]) -> Iterator[Chosen]:
        for layer, row, number in zip(self.profile.layers, self.menu.rows, choice, strict=True):
            if not layer.layers:  # a cut
                continue
            option = layer.options[number]
            yield Chosen.model_construct(
                name=layer.name,
                option=number,
                label=option.label,
                family=option.family,
                bytes=row.stored(number),
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
        costs[self._held_nowhere if limits.holds is None else self._without(limits)] = np.inf
        for name, number in limits.locks.items():
            if (locked := self._rows.get(name)) is None:
                raise BudgetInvalid(f"The profile has no layer {quoted(name)}.", "locks")
            last = len(self.profile.layers[locked].options) - 1
            if not 0 <= number <= last:
                raise BudgetInvalid(f"{name} has options 0 to {last}, and no option {number}.", f"locks.{name}")
            costs[locked] = np.inf
            costs[locked, number] = scaled[locked, number]
        return costs

    @cached_property
    def _held_nowhere(self) -> Mask:
        return self._without(ANYTHING)

    def _without(self, limits: Limits) -> Mask:
        """(layers, options) where a format that is asked for does not hold it."""
        found = np.zeros(self.menu.losses.shape, dtype=np.bool_)
        for row, layer in enumerate(self.profile.layers):
            found[row, 1 : len(layer.options)] = [not limits.held(layer, option) for option in layer.options[1:]]
        return found

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
        whole = Combination((), along, least_bytes - float(along.weights[-1]))
        sizes = along.weights + whole.beside
        # as many points where files are small as where they are large
        wanted = np.geomspace(sizes[-1], sizes[0], FRONT).clip(sizes[-1], sizes[0])
        steps = np.unique(len(sizes) - np.searchsorted(sizes[::-1], wanted, "right"))
        return tuple(self._point(whole, step) for step in steps[::-1].tolist())

    def _point(self, given: Combination, step: int) -> FrontPoint:
        """After so many steps of its path."""
        choice = given.along.choice(step)
        rows = np.flatnonzero(choice >= 0)
        lost = [self._lost(rows, choice[rows])] + [
            (np.array([self._places[cut.family]]), np.array([cut.loss])) for cut in given.cuts
        ]
        families, losses = (np.concatenate(each) for each in zip(*lost, strict=True))
        predicted, alone = self._summed(families, losses)
        loss = self.fit.loss(self.fit.scaled(predicted), predicted, alone=alone)
        size = round(float(given.along.weights[step]) + given.beside)
        return FrontPoint(size_bytes=size, loss=loss.value, low=loss.low, high=loss.high)


def _named(cuts: Iterable[Cut]) -> str:
    return json.dumps([(cut.unit, cut.label) for cut in cuts])
