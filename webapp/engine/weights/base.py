"""A weight as a run holds it: decodes to a tensor, and knows the parts that go into the file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from webapp.engine.lazy import Tensor, torch
from webapp.engine.math.quantizers import LARGEST_HALF

from .plans import StoragePlan


class Encoded(ABC):
    """One weight of logical `shape` in some stored form. `kinds` are the plan kinds it reads back.

    It has one value, what `decode` gives, and that is what proof, receipt and every exporter use. `dtype` is that of
    the checkpoint: whatever has to store the values as plain floats rounds them to it, and nothing else does.
    """

    kinds: ClassVar[tuple[str, ...]]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    @abstractmethod
    def plan(self) -> StoragePlan: ...

    @abstractmethod
    def decode(self) -> Tensor:
        """The values, of `shape`: plain ones as they are stored, float32 where they are computed of codes and scales,
        or of factors, which a module keeps apart instead.
        """

    @abstractmethod
    def parts(self) -> dict[str, Tensor]:
        """What the file holds, by suffix, exactly as `plan.parts` says."""

    @property
    def factors(self) -> dict[str, Encoded]:
        """The weights that this one is put together from, by their names in the file; none of a simple one."""
        return {}

    def mapped(self, change: Callable[[Encoded], Encoded]) -> Encoded:
        """The same change made to every simple weight in it: to itself, or to each of its factors."""
        return change(self)

    @property
    def leaves(self) -> tuple[Encoded, ...]:
        """The simple weights in it: itself, or those of its factors."""
        return tuple(leaf for factor in self.factors.values() for leaf in factor.leaves) or (self,)

    @classmethod
    @abstractmethod
    def from_parts(cls, parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        """The inverse of `parts`, with what `plan.meta` said."""


def half_dtype(encoded: Encoded) -> torch.dtype:
    """The 16-bit floats for its values: the checkpoint's own, else float16; bfloat16 where one is beyond float16."""
    if encoded.dtype == torch.bfloat16:
        return torch.bfloat16
    return torch.float16 if float(encoded.decode().abs().max()) <= LARGEST_HALF else torch.bfloat16
