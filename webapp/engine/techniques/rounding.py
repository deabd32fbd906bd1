"""What the techniques that round weights share: which numbers a layer may hold, and the form that results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor
from webapp.engine.math import compensation, ranks
from webapp.engine.math.compensation import Coded
from webapp.engine.math.gptq import RoundingProblem
from webapp.engine.math.grids import NumberFormat, QuantizationScheme, fit_grid
from webapp.engine.math.quantizers import quantize
from webapp.engine.recipe import TechniqueSettings, setting
from webapp.engine.weights import Compensated, CompensatedPlan, Encoded, Quantized, QuantizedPlan, StoragePlan
from webapp.engine.weights.compensated import factor_shapes

from .base import LARGE, AtWork, Outcome, Technique
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
COMPENSATED = ("linear", "conv")
UNCOMPENSATED = (
    "no low-rank factors were added: it has factors already, its channels are in groups, or such factors would "
    "hold half as many values as it"
)
COMPENSATING = 8.0  # copies of a layer's floats, that finding the factors of its error holds at once
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

    compensation_rank: int = setting(
        0,
        "Low-rank error compensation (rank)",
        "Adds to each linear layer and convolution two factors of this rank, in 4 bits, for what rounding took away. "
        "With gptq 8 to 16 keep more than groups of half the size in the same bytes, at 2 and 3 bits. Without data "
        "8 kept less of a small encoder, and more bits for some of the layers keep as much. GGUF and transformers.zip "
        "cannot hold it. 0: none.",
        per_layer=True,
        ge=0,
        le=1024,
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
        rounded = plan.mapped(lambda simple: QuantizedPlan.of(simple, settings.scheme, layer.layout))
        rank = 0 if plan.factors else compensation_rank(layer, settings)
        return CompensatedPlan.of(rounded, rank, compensation.FACTORS, layer.layout) if rank else rounded

    def working_bytes(self, at: AtWork) -> int:
        sizes = (layer.size for layer in at.layers if compensation_rank(layer, at.settings.of(layer)))
        return super().working_bytes(at) + int(4 * COMPENSATING * max(sizes, default=0))

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
        old = matrix.encoded
        done = Quantized.nearest(old.decode(), settings.scheme, matrix.layout, old.plan.pruned)
        return done if matrix.side else compensated_plainly(old, done, matrix.layer, settings)

    def rank(self, matrix: WeightMatrix, settings: Any) -> int:
        """Of the factors that are added to a matrix; a factored layer gets no more of them."""
        return 0 if matrix.side else compensation_rank(matrix.layer, settings)

    def told(self, matrix: WeightMatrix, encoded: Encoded, settings: Any, note: str) -> Outcome:
        return self.outcome(matrix.layer, encoded, settings, note)

    def outcome(self, layer: LayerFacts, encoded: Encoded, settings: Any, note: str = "") -> Outcome:
        """What was done to a layer, and what `note` says of it; not `ok` where it lacks the rank that was asked for."""
        missed = settings.compensation_rank and layer.kind in COMPENSATED and not isinstance(encoded, Compensated)
        notes = " ".join(filter(None, (note, UNCOMPENSATED if missed else "")))
        return Outcome(layer.name, self.asked(layer, settings), encoded.plan.label, not missed, note=notes)

    def asked(self, layer: LayerFacts, settings: Any) -> str:
        scheme = settings.scheme
        numbers = FORMAT_LABELS[scheme.numbers].format(bits=scheme.bits)
        spread = f"groups of {scheme.group}" if scheme.group else "per channel"
        rank = settings.compensation_rank if layer.kind in COMPENSATED else 0
        more = f" + rank {rank}" if rank else ""
        return f"{numbers} {spread}{more}"


def compensation_rank(layer: LayerFacts, settings: Any) -> int:
    """Of the factors that are added to a layer; 0 where none are wanted, and where they would hold half its values."""
    if layer.kind not in COMPENSATED or layer.groups > 1 or layer.stacked:
        return 0
    rows = layer.layout.rows(layer.shape)
    rank = int(settings.compensation_rank)
    return rank if ranks.factor_values(rows, layer.size // max(rows, 1), rank) <= LARGEST_FACTORS * layer.size else 0


def compensated(
    matrix: Tensor, base: Quantized, rank: int, again: Callable[[Tensor], Coded], given: RoundingProblem | None
) -> Encoded:
    """`base`, which was rounded of a matrix float32 (rows, columns), and what low rank puts back of the error.

    `again` rounds a matrix as base was; `given` has the metric of its inputs, where that is known.
    """
    found = compensation.compensated(matrix, (base.codes, base.grid), rank, again, given)
    layout, transposed = base.layout, base.layout.transposed
    shapes = (base.shape, *factor_shapes(base.shape, rank, transposed))
    each = zip((found.base, found.down, found.up), shapes, (base.zeros_wanted, False, False), strict=True)
    factors = (Quantized(*coded, shape, base.dtype, layout, zeros) for coded, shape, zeros in each)
    return Compensated(*factors, transposed=transposed)


def compensated_plainly(old: Encoded, base: Encoded, layer: LayerFacts, settings: Any) -> Encoded:
    """The same of a weight of which `base` was rounded to nearest, without data; a factored one stays as it is."""
    rank = compensation_rank(layer, settings)
    if not rank or not isinstance(base, Quantized):
        return base
    matrix = base.layout.matrix(old.decode()).float()
    zeros = matrix == 0 if base.zeros_wanted else None
    return compensated(matrix, base, rank, lambda wanted: nearest(wanted, zeros, settings.scheme), None)


def nearest(wanted: Tensor, zeros: Tensor | None, scheme: QuantizationScheme, weights: Tensor | None = None) -> Coded:
    """float32 (rows, columns) rounded to nearest, to zero where `zeros` (rows, columns) is true."""
    kept = wanted if zeros is None else wanted.masked_fill(zeros, 0.0)
    grid = fit_grid(kept, scheme, weights)
    return quantize(kept, grid), grid
