"""The forms in which a weight can be held and stored: one file each, found by being there."""

from __future__ import annotations

import sys
from functools import cache

from webapp.engine.errors import CheckpointRefused
from webapp.engine.plugins import subclasses_in

from .base import Encoded, FormInTraining, StoragePlan, TensorPart, furthest, half_dtype
from .compensated import Compensated, CompensatedPlan
from .composite import Composite, CompositePlan
from .dense import Dense, DensePlan
from .described import stored_facts, stored_plan
from .factored import Factored, FactoredPlan
from .factored_conv import FactoredConv, FactoredConvPlan
from .ggml import GgmlBlocks, GgmlPlan
from .pivoted import Pivoted, PivotedPlan
from .quantized import Quantized, QuantizedPlan
from .safetensors import dtype_name, dtype_of


@cache
def forms() -> dict[str, type[Encoded]]:
    """Every form by the kinds of plans that it reads back. Raises RuntimeError for a kind that two forms claim."""
    found: dict[str, type[Encoded]] = {}
    for form in subclasses_in(sys.modules[__name__], Encoded, "kinds"):  # type: ignore[type-abstract]
        for kind in form.kinds:
            if kind in found:
                raise RuntimeError(f"Two storage forms claim the kind {kind!r}: {found[kind]} and {form}.")
            found[kind] = form
    return found


def form_of(kind: str) -> type[Encoded]:
    """The form that reads weights of this kind back. Raises CheckpointRefused where this version knows none."""
    if kind not in forms():
        raise CheckpointRefused(
            f"A weight is stored as {kind!r}, a form that this version of Pare does not know. "
            "Read the file with the version that wrote it."
        )
    return forms()[kind]
