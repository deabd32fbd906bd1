"""A weight put together from factors, each of them a weight of its own, which may be sparse or quantized.

A module keeps the factors apart: it runs a product with each of them, and computes a composite weight's `output` of
these. So every exporter can write such a form that can follow products.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

from webapp.engine.lazy import Tensor

from .base import Encoded, StoragePlan, TensorPart
from .safetensors import LazyTensor, dtype_name

Shape = tuple[int, ...]
Products = Sequence[Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class CompositePlan(StoragePlan):
    """`each` is the plan of one factor; `transposed` where the weight is stored as (in, out, ...), and that matters."""

    each: tuple[StoragePlan, ...]
    transposed: bool = False

    names: ClassVar[tuple[str, ...]] = ()  # of the factors in the file; they are numbered where there are none

    @property
    def factors(self) -> Mapping[str, StoragePlan]:
        return dict(zip(self.names or map(str, range(len(self.each))), self.each, strict=True))

    def with_factors(self, *each: StoragePlan) -> Self:
        """The same with these in the place of its own, in their order."""
        return replace(self, dtype=each[0].dtype, each=each)

    def mapped(self, change: Callable[[StoragePlan], StoragePlan]) -> StoragePlan:
        return self.with_factors(*(factor.mapped(change) for factor in self.each))

    @cached_property
    def parts(self) -> tuple[TensorPart, ...]:
        each = ((name, part) for name, plan in self.factors.items() for part in plan.parts)
        return (*(TensorPart(f".{name}{part.name}", part.shape, part.dtype) for name, part in each), *self.beside)

    @property
    def beside(self) -> tuple[TensorPart, ...]:
        """What the file holds beside the factors."""
        return ()

    @property
    def params(self) -> int:
        return sum(plan.params for plan in self.each)

    @property
    def nonzero(self) -> int:
        return sum(plan.nonzero for plan in self.each)

    @property
    def stored(self) -> int:
        return sum(plan.stored for plan in self.each)

    @property
    def pruned(self) -> bool:
        return any(plan.pruned for plan in self.each)

    @property
    def meta(self) -> dict[str, Any]:
        found = {"kind": self.kind, "shape": list(self.shape)} | {n: plan.meta for n, plan in self.factors.items()}
        return found | ({"transposed": True} if self.transposed else {})


class Composite(Encoded):
    """Later steps work on the `factors`, each for itself: `mapped` and `with_factors` put the result together again."""

    Plan: ClassVar[type[CompositePlan]]
    beside: ClassVar[tuple[str, ...]] = ()  # suffixes of what the file holds beside the factors
    chained: ClassVar[bool] = True  # the last product puts out what the layer does, and adds its bias
    heads: ClassVar[tuple[str, ...]] = ()  # products that each run on what the layer is given, if not the first alone

    def __init__(self, *each: Encoded, transposed: bool = False) -> None:
        self.each, self.transposed, self.dtype = each, transposed, each[0].dtype
        self.shape = self.shape_of([factor.shape for factor in each], transposed)

    @classmethod
    @abstractmethod
    def shape_of(cls, shapes: Sequence[Shape], transposed: bool) -> Shape:
        """The weight's, of those of its factors."""

    def runs(self, transposed: bool) -> dict[str, str]:
        """The factor of each product by the product's name in the module, in the order in which they run.

        A product multiplies as a layer with that factor as its weight; `transposed` where the layer holds (in, out).
        """
        return {name: name for name in self.factors}

    @staticmethod
    def output(x: Tensor, products: Products, beside: Mapping[str, Tensor], axis: int) -> Tensor:
        """What a layer puts out, but for the bias where it is not `chained`. Features lie along `axis`."""
        for product in products:
            x = product(x)
        return x

    @property
    def constants(self) -> dict[str, Tensor]:
        """What `output` needs `beside` the products, by the names of the module's buffers."""
        return {}

    @property
    def factors(self) -> dict[str, Encoded]:
        return dict(zip(self.Plan.names or map(str, range(len(self.each))), self.each, strict=True))

    def with_factors(self, *each: Encoded) -> Self:
        """The same with these in the place of its own, in their order."""
        made = copy(self)
        made.each, made.dtype = each, each[0].dtype
        return made

    def with_factor(self, name: str, factor: Encoded) -> Self:
        return self.with_factors(*(self.factors | {name: factor}).values())

    def mapped(self, change: Callable[[Encoded], Encoded]) -> Encoded:
        return self.with_factors(*(factor.mapped(change) for factor in self.each))

    def with_values(self, values: Tensor) -> Encoded:
        raise TypeError("Of a composite weight each factor is given values for itself.")

    @property
    def plan(self) -> CompositePlan:
        return self.Plan(
            self.shape, dtype_name(self.dtype), tuple(factor.plan for factor in self.each), self.transposed
        )

    def parts(self) -> dict[str, Tensor]:
        each = ((name, factor.parts()) for name, factor in self.factors.items())
        return {f".{name}{suffix}": tensor for name, parts in each for suffix, tensor in parts.items()}

    def filed_parts(self) -> Mapping[str, LazyTensor]:
        each = ((name, factor.filed_parts()) for name, factor in self.factors.items())
        inner = {f".{name}{suffix}": part for name, parts in each for suffix, part in parts.items()}
        return dict(super().filed_parts()) | inner

    @property
    def memory_bytes(self) -> int:
        return sum(factor.memory_bytes for factor in self.each)

    @classmethod
    def described(cls, meta: Mapping[str, Any]) -> dict[str, tuple[type[Encoded], Mapping[str, Any]]]:
        """The form of each factor in a manifest, and what is said of it, in their order."""
        from . import form_of

        names = cls.Plan.names or sorted((n for n, about in meta.items() if isinstance(about, Mapping)), key=int)
        return {name: (form_of(meta[name]["kind"]), meta[name]) for name in names}

    @classmethod
    def suffixes(cls, meta: Mapping[str, Any]) -> tuple[str, ...]:
        each = ((name, form.suffixes(about)) for name, (form, about) in cls.described(meta).items())
        return (*(f".{name}{suffix}" for name, suffixes in each for suffix in suffixes), *cls.beside)

    @classmethod
    def from_parts(cls, parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        each = []
        for name, (form, about) in cls.described(meta).items():
            own = ((suffix, parts.get(f".{name}{suffix}")) for suffix in form.suffixes(about))
            each.append(form.from_parts({suffix: part for suffix, part in own if part is not None}, about))
        made = cls.joined(each, parts, meta)
        if made.shape != tuple(meta["shape"]):
            raise ValueError(f"its factors make a weight of shape {list(made.shape)}, not {meta['shape']}")
        return made

    @classmethod
    def joined(cls, each: Sequence[Encoded], parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        """The weight of these factors, and what else `parts` and `meta` say of it."""
        return cls(*each, transposed=bool(meta.get("transposed")))
