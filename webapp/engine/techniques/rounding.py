"""What the techniques that round weights share: which numbers a layer may hold, and the form that results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from webapp.engine.facts import LayerFacts
from webapp.engine.math.grids import NumberFormat, QuantizationScheme
from webapp.engine.recipe import TechniqueSettings, setting
from webapp.engine.weights import Encoded, Quantized, QuantizedPlan, StoragePlan

from .base import LARGE, Outcome, Technique
from .calibration import WeightMatrix

MENU: Sequence[tuple[int, NumberFormat, int]] = (  # bits, numbers, group size: what a budget may choose from
    (8, "int", 64),
    (6, "int", 64),
    (4, "int", 64),
    (3, "int", 64),
    (2, "int", 64),
    (6, "fitted", 128),  # levels that are fitted lose less than integers in the same bytes, and wide groups than narrow
    (5, "fitted", 128),
    (4, "fitted", 128),
    (3, "fitted", 128),
    (3, "fitted", 256),
    (2, "fitted", 128),
    (2, "fitted", 256),
)
FINER: Sequence[tuple[int, NumberFormat, int]] = (  # for a large layer too: some per cent of its bytes apart
    *((bits, "fitted", group) for bits in (6, 5, 4, 3, 2) for group in (16, 20, 24, 32, 40, 48, 64, 96)),
    *((6, "fitted", group) for group in (8, 12)),
    *((bits, "int", 32) for bits in (8, 6, 4, 3, 2)),
)
PRUNED: Sequence[tuple[int, NumberFormat, int]] = ((4, "fitted", 128),)
FACTORED: Sequence[tuple[int, NumberFormat, int]] = ((6, "fitted", 128),)  # an error in one factor is multiplied
FINER_FACTORED: Sequence[tuple[int, NumberFormat, int]] = tuple(
    (bits, "fitted", group) for bits in (6, 5, 4) for group in (32, 128)
)
LARGEST_FACTORS = 0.5  # of the weight's values: more of them are better rounded without being factored
FORMAT_LABELS = {"int": "int{bits}", "normal": "{bits}-bit NormalFloat", "fitted": "{bits}-bit fitted levels"}


class RoundingSettings(TechniqueSettings):
    bits: Literal[8, 6, 5, 4, 3, 2] = setting(
        4, "Bits", "Bits of each stored code.", unit="bits", widget="choice", per_layer=True
    )
    numbers: NumberFormat = setting(
        "int",
        "Number format",
        "int: integers, evenly spaced. normal: NormalFloat, spaced as a normal distribution is dense (NF4 at 4 bits). "
        "fitted: a codebook of levels for each layer, chosen for the least error.",
        per_layer=True,
    )
    granularity: Literal["channel", "group"] = setting(
        "group",
        "Scale granularity",
        "channel: one scale for each output channel (row of the matrix). group: one for each group of consecutive "
        "inputs; finer, and a little larger.",
        per_layer=True,
    )
    group_size: int = setting(
        64,
        "Group size",
        "Inputs that share a scale.",
        unit="weights",
        show_when={"granularity": "group"},
        per_layer=True,
        ge=8,
        le=4096,
    )
    symmetric: bool = setting(
        True,
        "Symmetric",
        "On: the range is centred on zero. Off: each scale has a zero point too, for weights mostly of one sign.",
        per_layer=True,
        show_when={"numbers": "int"},
    )
    scale: Literal["search", "range"] = setting(
        "search",
        "Scale selection",
        "search: the scale with the least squared error, which clips a few large weights. range: the scale that "
        "reaches every weight (min-max), which is quicker. At 8 bits clipping gains nothing, and the range is used.",
        per_layer=True,
    )

    @property
    def scheme(self) -> QuantizationScheme:
        group = self.group_size if self.granularity == "group" else 0
        searched = self.scale == "search" and self.bits < 8
        return QuantizationScheme(self.bits, group, self.symmetric or self.numbers != "int", self.numbers, searched)


class Rounding(Technique):
    """Codes of few bits in the place of floats. Of a factored layer each factor is rounded."""

    rows_apart = True

    def refuses(self, plan: StoragePlan) -> str | None:
        for leaf in plan.leaves:
            if leaf.holds != "floats":
                return f"its values are {leaf.holds} already; give each layer to one step only that rounds weights"
        return None

    def exact(self, settings: Any) -> bool:
        return False  # values that round to zero may make the bitmask worth its bytes

    def plan(self, layer: LayerFacts, plan: StoragePlan, settings: Any) -> StoragePlan:
        return plan.mapped(lambda simple: QuantizedPlan.of(simple, settings.scheme, layer.layout))

    def menu(self, layer: LayerFacts, plan: StoragePlan, share: float) -> Iterator[dict[str, Any]]:
        """Settings for the `options` of a technique that rounds."""
        if self.refuses(plan):
            return
        if plan.factors:
            menu = FINER_FACTORED if share > LARGE else FACTORED
            menu = menu if plan.params <= LARGEST_FACTORS * plan.size else ()
        else:
            menu = PRUNED if plan.pruned else (*MENU, *FINER) if share > LARGE else MENU
        columns = min(leaf.size // max(layer.layout.rows(leaf.shape), 1) for leaf in plan.leaves)
        told = set()
        for bits, numbers, group in menu:
            spread = "group" if group < columns else "channel"
            if (bits, numbers, spread) not in told or spread == "group":
                told.add((bits, numbers, spread))
                yield {"bits": bits, "numbers": numbers, "granularity": spread, "group_size": group}

    def named(self, settings: Any) -> str:
        scheme = settings.scheme
        numbers = "" if scheme.numbers == "int" else f" {scheme.numbers}"
        return f"{scheme.bits} bits{numbers}, " + (f"groups of {scheme.group}" if scheme.group else "per channel")

    def plainly(self, matrix: WeightMatrix, settings: Any) -> Encoded:
        """The matrix rounded to nearest, without data."""
        pruned = matrix.encoded.plan.pruned
        return Quantized.nearest(matrix.encoded.decode(), settings.scheme, matrix.layout, pruned)

    def told(self, matrix: WeightMatrix, encoded: Encoded, settings: Any, note: str) -> Outcome:
        return Outcome(matrix.layer.name, self.asked(matrix.layer, settings), encoded.plan.label, note=note)

    def asked(self, layer: LayerFacts, settings: Any) -> str:
        scheme = settings.scheme
        numbers = FORMAT_LABELS[scheme.numbers].format(bits=scheme.bits)
        return f"{numbers} " + (f"groups of {scheme.group}" if scheme.group else "per channel")
