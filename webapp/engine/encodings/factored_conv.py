"""A convolution as a chain of thinner ones (Tucker-2, spatial); a module runs them one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any, Self

import torch
from torch import Tensor

from ..factor_plans import FactoredConvPlan
from .base import Encoded, dtype_name
from .composite import Composite, factors_from


class FactoredConv(Composite):
    """Kernels (r, i, …), …, (o, r', …), the first at the input. Each axis of the kernel is long in one of them only."""

    kinds = ("factored_conv",)

    def __init__(self, *chain: Encoded) -> None:
        self.chain, self.dtype = chain, chain[0].dtype
        kernel = (max(lengths) for lengths in zip(*(factor.shape[2:] for factor in chain), strict=True))
        self.shape = (chain[-1].shape[0], chain[0].shape[1], *kernel)

    @property
    def factors(self) -> dict[str, Encoded]:
        return {str(index): factor for index, factor in enumerate(self.chain)}

    def with_factors(self, *factors: Encoded) -> Self:
        return type(self)(*factors)

    @property
    def plan(self) -> FactoredConvPlan:
        return FactoredConvPlan(self.shape, dtype_name(self.dtype), chain=tuple(f.plan for f in self.chain))

    def decode(self) -> Tensor:
        return reduce(composed, (factor.decode().float() for factor in self.chain))

    @classmethod
    def from_parts(cls, parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        numbers = sorted((name for name, about in meta.items() if isinstance(about, Mapping)), key=int)
        return cls(*factors_from(parts, {number: meta[number] for number in numbers}))


def composed(first: Tensor, second: Tensor) -> Tensor:
    """The kernel (o, i, …) of a convolution (r, i, …) followed by one (o, r, …) that is long along other axes."""
    return torch.einsum("or...,ri...->oi...", second, first)
