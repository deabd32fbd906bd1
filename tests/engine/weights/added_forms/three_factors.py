"""A storage form that is added as one file: a matrix as the product of three, run from its inputs' end."""

from dataclasses import dataclass

from .composite import Composite, CompositePlan


@dataclass(frozen=True)
class ThreeFactorsPlan(CompositePlan):
    names = ("up", "core", "down")
    kind = "three_factors"

    @property
    def label(self):
        return f"three factors: {self.each[0].label}"


class ThreeFactors(Composite):
    kinds = ("three_factors",)
    Plan = ThreeFactorsPlan

    @classmethod
    def shape_of(cls, shapes, transposed):
        return shapes[0][0], shapes[-1][1]

    def runs(self, transposed):
        return {name: name for name in (self.factors if transposed else reversed(self.factors))}

    def decode(self):
        up, core, down = (factor.decode().float() for factor in self.each)
        return up @ core @ down
