"""A weight put together from factors; each is a weight of its own and may be sparse or quantized."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

from webapp.engine.lazy import Tensor

from .base import Encoded


class Composite(Encoded):
    """Later steps work on the `factors`, each for itself: `mapped` and `with_factors` put the result together again."""

    @abstractmethod
    def with_factors(self, *factors: Encoded) -> Self:
        """The same with these in the place of its own, in their order."""

    def mapped(self, change: Callable[[Encoded], Encoded]) -> Encoded:
        return self.with_factors(*(factor.mapped(change) for factor in self.factors.values()))

    def parts(self) -> dict[str, Tensor]:
        each = ((name, factor.parts()) for name, factor in self.factors.items())
        return {f".{name}{suffix}": tensor for name, parts in each for suffix, tensor in parts.items()}


def factors_from(parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> list[Encoded]:
    """The factors that a manifest describes, in its order."""
    from . import decoder_of

    found = []
    for name, about in meta.items():
        if isinstance(about, Mapping):
            prefix = f".{name}"
            own = {suffix.removeprefix(prefix): t for suffix, t in parts.items() if suffix.startswith(prefix)}
            found.append(decoder_of(about["kind"]).from_parts(own, about))
    return found
