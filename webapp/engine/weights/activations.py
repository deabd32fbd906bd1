"""How the inputs of a product become 8-bit integers when the model runs, and the same in a torch module.

A runtime multiplies integers; torch has floats that lie on the integers' grid, which give the same answers but for the
order of additions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from webapp.engine.lazy import Tensor, nn
from webapp.engine.math import activations


class Range(BaseModel):
    """A fixed grid: code 0 to 255 stands for scale * (code - zero)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: float
    zero: int

    def rounded(self, x: Tensor) -> Tensor:
        return activations.fixed(x, self.scale, self.zero)


class Activations(BaseModel):
    """`by` says what shares a range: each token, the whole input, or what calibration found (`input` then holds it).

    A convolution's result is quantized too: at the output of the module `result_at`, itself or the normalisation
    that follows it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["token", "tensor", "calibration"]
    input: Range | None = None
    result: Range | None = None
    result_at: str | None = None

    def rounded(self, x: Tensor) -> Tensor:
        if self.input is not None:
            return self.input.rounded(x)
        return activations.by_token(x) if self.by == "token" else activations.by_tensor(x)


def simulate(module: nn.Module, plans: Mapping[str, Activations]) -> None:
    """Makes the modules at these paths round what they are given, and what comes of it, as the plans say."""
    for path, plan in plans.items():
        module.get_submodule(path).register_forward_pre_hook(_before(plan))
        if plan.result is not None and plan.result_at is not None:
            module.get_submodule(plan.result_at).register_forward_hook(_after(plan.result))


def _before(plan: Activations) -> Any:
    return lambda _, given: (plan.rounded(given[0]), *given[1:])


def _after(result: Range) -> Any:
    return lambda _, __, output: result.rounded(output)
