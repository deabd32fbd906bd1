"""8-bit weights times activations that are rounded to 8 bits as they come: integer arithmetic without calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from webapp.engine.data.batches import Batch, synthetic
from webapp.engine.recipe import StepSettings, setting
from webapp.engine.weights.activations import Activations

from .base import Context
from .calibration import CalibrationBlock
from .integer_products import IntegerProducts, IntegerSettings


class DynamicQuantization(IntegerProducts):
    name = "dynamic_quantization"
    title = "Dynamic quantization"
    family = "Quantization"
    summary = (
        "Stores weights as 8-bit integers and rounds activations to 8 bits at run time, so that onnxruntime multiplies "
        "integers: two to four times as fast, and loses under 1 point when outlier layers keep float inputs."
    )
    paper = "https://arxiv.org/abs/2206.01861"
    needs = frozenset({"calibration_if_any", "architecture"})
    layers = frozenset({"linear", "embedding"})

    class Settings(IntegerSettings):
        ranges: Literal["token", "tensor"] = setting(
            "token",
            "Range granularity",
            "token: each token's activations get a range of their own, so one outlier costs only its own token. "
            "tensor: one range for all of an input, which is quicker and coarser.",
            per_layer=True,
        )

    def data(self, settings: Any, context: Context) -> list[Batch]:
        """Samples of the run's data where there are any; else drawn tokens, whose outliers are the model's own."""
        if context.data is not None:
            return context.calibration(settings.samples or 8)
        assert context.facts is not None
        assert context.facts.architecture is not None
        return [synthetic(context.facts.architecture, context.seed)]

    def observed(self, block: CalibrationBlock, settings: StepSettings) -> Mapping[str, Activations]:
        return {matrix.path: Activations(by=settings.of(matrix.layer).ranges) for matrix in block.matrices}

    def asked(self, settings: Any) -> str:
        return f"int8 weights, 8-bit inputs, a range for each {settings.ranges}"
