"""Low-rank factorization: a matrix becomes the product of two thin ones, which are stored and run as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from ..encodings import Dense, Encoded, Factored
from ..facts import LayerFacts
from ..math import factorization
from ..plans import DensePlan, FactoredPlan, Plan, QuantizedPlan
from .base import LayerByLayer, Outcome, Skip, setting
from .base import Settings as BaseSettings


class LowRank(LayerByLayer):
    name = "low_rank"
    title = "Low-rank factorization"
    summary = (
        "Replaces a weight matrix by two factors of smaller rank (truncated SVD), which saves memory and arithmetic; "
        "matrices of trained language models lose much accuracy without calibration."
    )
    paper = "https://doi.org/10.1007/BF02288367"
    needs = frozenset()
    layers = frozenset({"linear"})

    class Settings(BaseSettings):
        by: Literal["ratio", "rank", "energy"] = setting(
            "ratio",
            "Choose the rank by",
            "ratio: the share of the matrix's parameters that the factors may hold. rank: the same rank everywhere. "
            "energy: the share of the squared singular values to keep.",
            widget="choice",
        )
        ratio: float = setting(
            0.5,
            "Parameters kept",
            "Factors hold at most this share of the matrix's values.",
            widget="slider",
            step=0.01,
            show_when={"by": "ratio"},
            gt=0.0,
            lt=1.0,
        )
        rank: int = setting(
            32, "Rank", "Columns of the left and rows of the right factor.", show_when={"by": "rank"}, ge=1, le=65536
        )
        energy: float = setting(
            0.9,
            "Energy kept",
            "Share of the sum of squared singular values; the rank then depends on each matrix.",
            widget="slider",
            step=0.01,
            show_when={"by": "energy"},
            gt=0.0,
            lt=1.0,
        )

    def refuses(self, plan: Plan) -> str | None:
        if isinstance(plan, QuantizedPlan):
            return "its values are integers by then; put low_rank before weight_quantization"
        if isinstance(plan, FactoredPlan):
            return "it is factored already; give each layer to one low_rank step only"
        if plan.pruned:
            return "an earlier step has set zeros in it, which factors would fill in again; put low_rank before pruning"
        return None

    def exact(self, settings: Any) -> bool:
        return bool(settings.by != "energy")

    def plan(self, layer: LayerFacts, plan: Plan, settings: Any) -> Plan:
        rows, columns = plan.shape
        if settings.by == "energy":
            raise Skip("its rank is known only once its singular values are")
        return self._factored(plan, self._worthwhile(self._rank(rows, columns, settings), rows, columns))

    def asked(self, layer: LayerFacts, settings: Any) -> str:
        if settings.by == "rank":
            return f"rank {settings.rank}"
        share = settings.ratio if settings.by == "ratio" else settings.energy
        return f"{share:.0%} of its {'parameters' if settings.by == 'ratio' else 'energy'}"

    def compress(self, encoded: Encoded, layer: LayerFacts, settings: Any) -> tuple[Encoded, Outcome]:
        matrix = encoded.decode()
        rows, columns = matrix.shape
        if settings.by != "energy":
            self._worthwhile(self._rank(rows, columns, settings), rows, columns)  # before the costly part
        u, s, vh = factorization.svd(matrix)
        wanted = factorization.rank_for_energy(s, settings.energy) if settings.by == "energy" else None
        rank = self._worthwhile(wanted or self._rank(rows, columns, settings), rows, columns)
        left, right = factorization.factors(u, s, vh, rank)
        done = Factored(Dense(left.to(matrix.dtype)), Dense(right.to(matrix.dtype)))
        energy = float(s[:rank].double().square().sum() / s.double().square().sum().clamp(min=1e-300))
        share = done.plan.params / matrix.numel()
        return done, Outcome(
            layer.name,
            self.asked(layer, settings),
            f"rank {rank} of {min(rows, columns)}, {share:.1%} of its parameters, {energy:.1%} of its energy",
        )

    def _rank(self, rows: int, columns: int, settings: Any) -> int:
        if settings.by == "rank":
            return int(settings.rank)
        return factorization.rank_for_ratio(rows, columns, settings.ratio)

    def _worthwhile(self, rank: int, rows: int, columns: int) -> int:
        most = factorization.break_even_rank(rows, columns)
        if rank > most:
            raise Skip(f"rank {rank} would not save: factors of {rows} x {columns} are smaller only up to rank {most}")
        return rank

    def _factored(self, plan: Plan, rank: int) -> FactoredPlan:
        left = DensePlan((plan.shape[0], rank), plan.dtype)
        return FactoredPlan(plan.shape, plan.dtype, left=left, right=replace(left, shape=(rank, plan.shape[1])))
