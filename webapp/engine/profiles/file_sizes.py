"""Whose bytes a budget is about: of Pare's file, unless the sizes of another format's are known beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from webapp.engine.facts import CheckpointFacts
from webapp.engine.weights import DensePlan, StoragePlan
from webapp.engine.weights.artifact import predicted_size


class FileSizes:
    """Of Pare's own file. `format`: the name of another."""

    format: str | None = None

    def weight(self, plan: StoragePlan, name: int, total: int) -> int:
        """With what the file says of it, under a name of that length, behind `total` bytes of other weights."""
        return plan.bytes + _header(plan, name, total)

    def file(self, plans: Mapping[str, StoragePlan], facts: CheckpointFacts) -> int:
        return predicted_size(plans, facts.tied, facts.architecture)[1]


OWN = FileSizes()


@cache
def _header(plan: StoragePlan, name: int, total: int) -> int:
    """Bytes of a file's header about a weight with a name of that length, behind `total` bytes of other weights."""
    before = {"": DensePlan((max(total // 8, 1),), "float64")}
    whole, _ = predicted_size({**before, "n" * name: plan}, {}, None)
    rest, _ = predicted_size(before, {}, None)
    return whole - rest
