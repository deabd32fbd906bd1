"""What is asked of a budget, what limits it, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, ValidationError, model_validator

from webapp.engine.errors import BudgetInvalid
from webapp.engine.facts import Facts
from webapp.engine.recipe import invalid
from webapp.engine.weights import form_of

from .facts import LayerOptions, LossUnit, Option
from .fit import Interval


class BudgetGoal(Facts):
    """A size, a tolerance, or both: then the best within both."""

    bytes: int | None = Field(
        None, gt=0, lt=2**63, description="Of the file, at most: Pare's, or the one format's that is asked for."
    )
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
    """`recipe` as plain data; None where nothing has to change. `size_bytes` is what the file has at most."""

    recipe: dict[str, Any] | None
    size_bytes: int
    format: str | None = Field(None, description="Of whose file `size_bytes` and the goal are; null: Pare's own.")
    own_bytes: int = Field(0, description="What Pare's own file has at most.")
    expected: Expected
    layers: tuple[Chosen, ...]
    cuts: tuple[ChosenCut, ...] = ()
    front: tuple[FrontPoint, ...]


@dataclass(frozen=True)
class Limits:
    """What may be chosen. `families`: None for all; `locks`: the option of a layer.

    `holds`: whether the formats do that are asked for; None of none, where no option is chosen that suits one alone.
    """

    families: Collection[str] | None = None
    locks: Mapping[str, int] = field(default_factory=dict)
    holds: Callable[[LayerOptions, Option], bool] | None = None

    def held(self, layer: LayerOptions, option: Option) -> bool:
        return form_of(option.kind).anywhere if self.holds is None else self.holds(layer, option)


ANYTHING = Limits()
