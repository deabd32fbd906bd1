"""What a storage form is: a plan, which counts bytes without values, and the encoded weight, which has them.

A file in this folder that declares both is a form, found by being there. Prediction works on plans alone; the writer
follows the plan of an encoded weight, so what is predicted is what is written.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from webapp.engine.facts import DTYPE_BYTES
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.math.quantizers import LARGEST_HALF

from .safetensors import LazyTensor, dtype_of


@dataclass(frozen=True)
class TensorPart:
    """A tensor in the file; `name` is what is appended to the weight's name."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class StoragePlan(ABC):
    """How a weight of logical `shape` is stored, without its values; `dtype` is that of the checkpoint."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return sum(p.bytes for p in self.parts)

    @property
    @abstractmethod
    def kind(self) -> str:
        """What the manifest calls the form; one of the `kinds` of its encoded weight."""

    @property
    @abstractmethod
    def parts(self) -> tuple[TensorPart, ...]:
        """The tensors that the file holds for the weight."""

    @property
    @abstractmethod
    def label(self) -> str:
        """For people: "dense float32", "4-bit, groups of 64"."""

    @property
    def holds(self) -> str:
        """What its values are, as a refusal says it: "floats", "integers"."""
        return f"stored as {self.label}"

    @property
    def params(self) -> int:
        """Values that the model has at this weight: elements, or the elements of the factors."""
        return self.size

    @property
    def nonzero(self) -> int:
        return self.params

    @property
    def stored(self) -> int:
        """Values that the file holds: zeros behind a bitmask are not among them."""
        return self.params

    @property
    def pruned(self) -> bool:
        """Whether a step has set zeros here on purpose."""
        return False

    @property
    def meta(self) -> dict[str, Any]:
        """What the file's manifest says of the weight, so that its parts can be read back."""
        found: dict[str, Any] = {"kind": self.kind, "shape": list(self.shape), "dtype": self.dtype}
        return {**found, "pruned": True} if self.pruned else found

    @property
    def plain(self) -> bool:
        """Whether the file needs no word about it: a tensor under its own name."""
        return False

    @property
    def factors(self) -> Mapping[str, StoragePlan]:
        """The weights that this one is put together from, by their names in the file; none of a simple one."""
        return {}

    def mapped(self, change: Callable[[StoragePlan], StoragePlan]) -> StoragePlan:
        """The same change made to every simple weight in it: to itself, or to each of its factors."""
        return change(self)

    @property
    def leaves(self) -> tuple[StoragePlan, ...]:
        """The simple weights in it: itself, or those of its factors."""
        return tuple(leaf for factor in self.factors.values() for leaf in factor.leaves) or (self,)

    @property
    def opened(self) -> StoragePlan:
        """As a step sees it: blocks that a checkpoint came in are floats to whoever changes them."""
        return self


@dataclass(frozen=True)
class SimplePlan(StoragePlan):
    """Of a weight that is put together from no others; its zeros may be left out behind a bitmask."""

    zeros: int = 0
    zeros_wanted: bool = False

    @property
    @abstractmethod
    def sparse(self) -> bool:
        """Whether that is smaller."""

    @property
    def nonzero(self) -> int:
        return self.size - self.zeros

    @property
    def stored(self) -> int:
        return self.nonzero if self.sparse else self.size

    @property
    def pruned(self) -> bool:
        return self.zeros_wanted


class Encoded(ABC):
    """One weight of logical `shape` in some stored form. `kinds` are the plan kinds it reads back.

    It has one value, what `decode` gives, and that is what proof, receipt and every exporter use. `dtype` is that of
    the checkpoint: whatever has to store the values as plain floats rounds them to it, and nothing else does.
    """

    kinds: ClassVar[tuple[str, ...]]
    anywhere: ClassVar[bool] = True  # a budget may choose it whatever the format; else only for one that holds it
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    @abstractmethod
    def plan(self) -> StoragePlan: ...

    @abstractmethod
    def decode(self) -> Tensor:
        """The values, of `shape` and `value_dtype`."""

    def slices(self) -> Iterator[Tensor]:
        """The values of the weight, ranges of its first axis one after the other, so that not all are in memory."""
        yield self.decode()

    def rows(self, wanted: Tensor) -> Tensor:
        """The values at these places (n,) of the first axis."""
        return self.decode()[wanted]

    def decode_into(self, place: Tensor) -> None:
        """Puts the values into a tensor of `shape`, as its dtype has them."""
        start = 0
        for some in self.slices():
            if not self.shape:
                place.copy_(some)
                return
            place[start : start + len(some)].copy_(some)
            start += len(some)

    @property
    def memory_bytes(self) -> int:
        """About what it takes in memory while it is held."""
        return max(self.plan.bytes, self.plan.params)

    @property
    def value_dtype(self) -> torch.dtype:
        """float32 where values are computed of codes and scales, or of factors, which a module keeps apart instead."""
        return torch.float32

    @abstractmethod
    def parts(self) -> dict[str, Tensor]:
        """What the file holds, by suffix, exactly as `plan.parts` says."""

    def filed_parts(self) -> Mapping[str, LazyTensor]:
        """The same, each made when it is asked for, and not kept."""

        def reader(suffix: str) -> Callable[[], Tensor]:
            return lambda: self.parts()[suffix]

        return {part.name: LazyTensor(part.shape, dtype_of(part.dtype), reader(part.name)) for part in self.plan.parts}

    @classmethod
    @abstractmethod
    def suffixes(cls, meta: Mapping[str, Any]) -> tuple[str, ...]:
        """Of all parts that a weight may have of which `plan.meta` said this."""

    @classmethod
    @abstractmethod
    def from_parts(cls, parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        """The inverse of `parts`, with what `plan.meta` said. Raises ValueError and the like where they disagree."""

    @abstractmethod
    def with_values(self, values: Tensor) -> Encoded:
        """The same form with what it can hold that is nearest to `values`, floats of `shape`. Of a simple weight."""

    def in_training(self, transposed: bool, device: torch.device, train_scales: bool) -> FormInTraining:
        """What becomes of floats in this form while a module that holds them, perhaps `transposed`, is trained."""
        return FormInTraining(self, transposed)

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


class FormInTraining:
    """Floats that an optimizer moves, and what they become in a form. They lie as the module holds them.

    Here they are stored and decoded at each step, and gradients pass as if they had not been (the straight-through
    estimator, https://arxiv.org/abs/1308.3432). A form that has a quicker or a better way overrides that.
    """

    plain = False  # True: the form holds the floats as they are, so that a module may compute with them

    def __init__(self, stored: Encoded, transposed: bool) -> None:
        self.stored, self.transposed = stored, transposed
        self.leaves: dict[str, nn.Parameter] = {}  # trained beside the floats, by what is added to the weight's name

    def rounded(self, values: Tensor) -> Tensor:
        """What the floats are in the form."""
        held = self.oriented(self.encoded(values).decode()).to(values.device, values.dtype)
        return values + (held - values).detach()

    def encoded(self, values: Tensor) -> Encoded:
        """The weight to store."""
        return self.stored.with_values(self.oriented(values.detach().cpu()))

    def oriented(self, values: Tensor) -> Tensor:
        """From how the module holds them to how they are stored, and back."""
        return values.t() if self.transposed else values


def furthest(encoded: Encoded) -> float:
    """The largest size of its values; 0 where there are none."""
    return max((float(some.abs().max()) for some in encoded.slices() if some.numel()), default=0.0)


def half_dtype(encoded: Encoded) -> torch.dtype:
    """The 16-bit floats for its values: the checkpoint's own, else float16; bfloat16 where one is beyond float16."""
    if encoded.dtype == torch.bfloat16:
        return torch.bfloat16
    return torch.float16 if furthest(encoded) <= LARGEST_HALF else torch.bfloat16
