"""A convolution as a chain of thinner ones (Tucker-2, spatial); a module runs them one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any, Self

from webapp.engine.lazy import Tensor, torch

from .base import Encoded
from .composite import Composite, factors_from
from .factor_plans import FactoredConvPlan
from .safetensors import dtype_name


class FactoredConv(Composite):
    """Kernels (r, i, …), …, (o, r', …), the first at the input. Each axis of the kernel is long in one of them only.

    Those of a transposed convolution are (i, r, …), …, (r', o, …).
    """

    kinds = ("factored_conv",)

    def __init__(self, *chain: Encoded, transposed: bool = False) -> None:
        self.chain, self.dtype, self.transposed = chain, chain[0].dtype, transposed
        kernel = (max(lengths) for lengths in zip(*(factor.shape[2:] for factor in chain), strict=True))
        ends = (chain[0].shape[0], chain[-1].shape[1]) if transposed else (chain[-1].shape[0], chain[0].shape[1])
        self.shape = (*ends, *kernel)

    @property
    def factors(self) -> dict[str, Encoded]:
        return {str(index): factor for index, factor in enumerate(self.chain)}

    def with_factors(self, *factors: Encoded) -> Self:
        return type(self)(*factors, transposed=self.transposed)

    @property
    def plan(self) -> FactoredConvPlan:
        chain = tuple(factor.plan for factor in self.chain)
        return FactoredConvPlan(self.shape, dtype_name(self.dtype), chain=chain, transposed=self.transposed)

    def decode(self) -> Tensor:
        kernels = (factor.decode().float() for factor in self.chain)
        if self.transposed:
            return reduce(composed, (kernel.transpose(0, 1) for kernel in kernels)).transpose(0, 1)
        return reduce(composed, kernels)

    @classmethod
    def from_parts(cls, parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        numbers = sorted((name for name, about in meta.items() if isinstance(about, Mapping)), key=int)
        chain = factors_from(parts, {number: meta[number] for number in numbers})
        return cls(*chain, transposed=bool(meta.get("transposed")))


def composed(first: Tensor, second: Tensor) -> Tensor:
    """The kernel (o, i, …) of a convolution (r, i, …) followed by one (o, r, …) that is long along other axes."""
    return torch.einsum("or...,ri...->oi...", second, first)
