"""Half precision: every value is rounded to a 16-bit float."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import torch
from webapp.engine.recipe import TechniqueSettings, setting
from webapp.engine.weights import Dense, DensePlan, Encoded, StoragePlan, dtype_of

from .base import MATRICES, LayerByLayer, Outcome, Skip


class Cast(LayerByLayer):
    name = "cast"
    title = "Cast to half precision"
    family = "Quantization"
    summary = "Stores floats in 16 bits; halves a float32 file and costs almost no accuracy."
    paper = "https://arxiv.org/abs/1710.03740"
    layers = MATRICES | {"embedding", "other"}
    rows_apart = True
    copies = 2.0

    class Settings(TechniqueSettings):
        dtype: Literal["float16", "bfloat16"] = setting(
            "float16",
            "Number format",
            "float16 has 11 significant bits and ends at 65504; bfloat16 has 8 and float32's range.",
            per_layer=True,
        )

    def plan(self, layer: LayerFacts, plan: StoragePlan, settings: Any) -> StoragePlan:
        return plan.mapped(lambda simple: self._cast_plan(simple, settings))

    def _cast_plan(self, plan: StoragePlan, settings: Any) -> StoragePlan:
        if not isinstance(plan, DensePlan):
            raise Skip(f"its values are stored as {plan.label} already")
        if plan.dtype not in ("float32", "float64", "float16", "bfloat16"):
            raise Skip(f"its values are {plan.dtype}")
        if plan.dtype == settings.dtype:
            raise Skip(f"its values are {settings.dtype} already")
        return replace(plan, dtype=settings.dtype)

    def options(self, layer: LayerFacts, plan: StoragePlan, share: float) -> Iterable[Mapping[str, Any]]:
        if isinstance(plan, DensePlan) and not plan.pruned and plan.dtype in ("float32", "float64"):
            yield from ({"dtype": dtype} for dtype in ("float16", "bfloat16"))

    def named(self, settings: Any) -> str:
        return str(settings.dtype)

    def asked(self, layer: LayerFacts, settings: Any) -> str:
        return str(settings.dtype)

    def compress(self, encoded: Encoded, layer: LayerFacts, settings: Any) -> tuple[Encoded, Outcome]:
        self.plan(layer, encoded.plan, settings)
        done = encoded.mapped(lambda simple: self._cast(simple, dtype_of(settings.dtype)))
        return done, Outcome(layer.name, settings.dtype, settings.dtype)

    def _cast(self, encoded: Encoded, dtype: torch.dtype) -> Encoded:
        rounded = torch.empty(encoded.shape, dtype=dtype)
        encoded.decode_into(rounded)
        lost = int(rounded.isinf().sum())
        if lost:
            lost -= sum(int(some.isinf().sum()) for some in encoded.slices())
        if lost:
            raise Skip(f"{lost} of its values are beyond the range of {dtype}; use bfloat16")
        return Dense(rounded, zeros_wanted=encoded.plan.pruned)
