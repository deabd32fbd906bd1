"""Round-to-nearest quantization of weights: integers are stored as integers, with a scale per row or group."""

from __future__ import annotations

from typing import Any, Literal

from ..encodings import Encoded, Factored, Quantized
from ..facts import LayerFacts
from ..plans import DensePlan, FactoredPlan, Plan, QuantizedPlan
from .base import LayerByLayer, Outcome, setting
from .base import Settings as BaseSettings


class WeightQuantization(LayerByLayer):
    name = "weight_quantization"
    title = "Weight quantization"
    summary = (
        "Stores weights as 8- or 4-bit integers, rounded to nearest without any data; "
        "8 bits cost next to nothing, 4 bits want groups. Arithmetic stays in floats."
    )
    paper = "https://arxiv.org/abs/1712.05877"
    layers = frozenset({"linear", "conv", "embedding"})

    class Settings(BaseSettings):
        bits: Literal[8, 4] = setting(8, "Bits", "Bits of each stored integer.", unit="bits", widget="choice")
        granularity: Literal["channel", "group"] = setting(
            "channel",
            "A scale for each",
            "channel: one scale for each row of the matrix. "
            "group: one for each run of inputs; finer, and a little larger.",
            widget="choice",
        )
        group_size: int = setting(
            64,
            "Group size",
            "Inputs that share a scale.",
            unit="weights",
            show_when={"granularity": "group"},
            ge=8,
            le=4096,
        )
        symmetric: bool = setting(
            True,
            "Symmetric",
            "On: zero lies in the middle. Off: each scale has a zero point too, for weights that lean to one side.",
            widget="switch",
        )

    def refuses(self, plan: Plan) -> str | None:
        inner = (plan.left, plan.right) if isinstance(plan, FactoredPlan) else (plan,)
        if any(isinstance(p, QuantizedPlan) for p in inner):
            return "its values are integers already; give each layer to one weight_quantization step only"
        return None

    def exact(self, settings: Any) -> bool:
        return False  # values that round to zero may make the bitmask worth its bytes

    def plan(self, layer: LayerFacts, plan: Plan, settings: Any) -> Plan:
        if isinstance(plan, FactoredPlan):
            left, right = self.plan(layer, plan.left, settings), self.plan(layer, plan.right, settings)
            return plan.with_factors(left, right)
        assert isinstance(plan, DensePlan)
        rows = plan.shape[1 if self._transposed(layer, plan.shape) else 0]
        group = _group(settings)
        return QuantizedPlan(
            plan.shape,
            plan.dtype,
            bits=settings.bits,
            rows=rows,
            group=group if group < plan.size // max(rows, 1) else 0,
            symmetric=settings.symmetric,
            transposed=self._transposed(layer, plan.shape),
            zeros=plan.zeros,
            zeros_wanted=plan.zeros_wanted,
        )

    def asked(self, layer: LayerFacts, settings: Any) -> str:
        group = _group(settings)
        return f"int{settings.bits} " + (f"groups of {group}" if group else "per channel")

    def compress(self, encoded: Encoded, layer: LayerFacts, settings: Any) -> tuple[Encoded, Outcome]:
        done = self._quantized(encoded, layer, settings)
        return done, Outcome(layer.name, self.asked(layer, settings), done.plan.label)

    def _quantized(self, encoded: Encoded, layer: LayerFacts, settings: Any) -> Encoded:
        if isinstance(encoded, Factored):
            left, right = (self._quantized(factor, layer, settings) for factor in (encoded.left, encoded.right))
            return Factored(left, right)
        values, group = encoded.decode(), _group(settings)
        transposed = self._transposed(layer, values.shape)
        return Quantized.nearest(values, settings.bits, group, settings.symmetric, transposed, encoded.plan.pruned)

    def _transposed(self, layer: LayerFacts, shape: tuple[int, ...]) -> bool:
        return layer.transposed and len(shape) == 2


def _group(settings: Any) -> int:
    return int(settings.group_size) if settings.granularity == "group" else 0
