"""Quantization of weights by rounding to nearest: codes of few bits, with a scale per row or group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from webapp.engine.facts import LayerFacts
from webapp.engine.math.grids import fit_grid
from webapp.engine.math.quantizers import nearest_values
from webapp.engine.recipe import setting
from webapp.engine.weights import Dense, Encoded, Quantized, StoragePlan

from .base import MATRICES, LayerByLayer, Outcome
from .calibration import Covariance, WeightMatrix
from .rounding import Rounding, RoundingSettings, compensated_plainly

TRIED = 1 << 14  # values that levels are fitted to where settings are only tried


class WeightQuantization(Rounding, LayerByLayer):
    name = "weight_quantization"
    title = "Weight quantization"
    family = "Quantization"
    copies = 2.0  # it goes by rows
    summary = (
        "Stores weights as 8- to 2-bit codes, rounded to nearest without any data; 8 bits cost next to nothing, "
        "4 bits want groups, and below that gptq keeps far more. Arithmetic stays in floats."
    )
    paper = "https://arxiv.org/abs/1712.05877"
    version = 2
    layers = MATRICES | {"embedding"}

    class Settings(RoundingSettings):
        bits: Literal[8, 6, 5, 4, 3, 2] = setting(
            8, "Bits", "Bits of each stored code.", unit="bits", widget="choice", per_layer=True
        )
        granularity: Literal["channel", "group"] = setting(
            "channel",
            "Scale granularity",
            "channel: one scale for each output channel (row of the matrix). group: one for each group of consecutive "
            "inputs; finer, and a little larger.",
            per_layer=True,
        )

    def options(self, layer: LayerFacts, plan: StoragePlan, share: float) -> Iterable[Mapping[str, Any]]:
        return self.menu(layer, plan, share)

    def compress(self, encoded: Encoded, layer: LayerFacts, settings: Any) -> tuple[Encoded, Outcome]:
        def rounded(simple: Encoded) -> Encoded:
            return Quantized.nearest(simple, settings.scheme, layer.layout, simple.plan.pruned)

        done = compensated_plainly(encoded, encoded.mapped(rounded), layer, settings)
        return done, self.outcome(layer, done, settings)

    def trials(
        self, matrix: WeightMatrix, inputs: Covariance | None, choices: Sequence[Any]
    ) -> Iterator[Encoded | None]:
        """With levels that are fitted to fewer values."""
        whole, encoded = matrix.floats(), matrix.encoded
        for settings in choices:
            values = nearest_values(whole, fit_grid(whole, settings.scheme, sample=TRIED))
            yield Dense(matrix.layout.weight(values, encoded.shape).contiguous(), zeros_wanted=encoded.plan.pruned)
