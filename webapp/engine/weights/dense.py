"""Values as they are; zeros are left out behind a bitmask where the plan finds that smaller."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

from webapp.engine.facts import DTYPE_BYTES
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import bits
from webapp.engine.math.values import count_zeros

from .base import Encoded, FormInTraining, SimplePlan, TensorPart
from .safetensors import LazyTensor, dtype_name, dtype_of


@dataclass(frozen=True)
class DensePlan(SimplePlan):
    """Values as they are; of a pruned weight a bitmask and the nonzero values, where that is smaller.

    That is above 3 % zeros in float32. Zeros that no step wanted stay among the values: a few of them in a bias would
    save some bytes, and take the tensor from every reader that knows it by its name.
    """

    @property
    def kind(self) -> str:
        return "sparse" if self.sparse else "dense"

    @cached_property
    def sparse(self) -> bool:
        if not self.zeros_wanted or "float" not in self.dtype:
            return False
        each = DTYPE_BYTES[self.dtype]
        return math.ceil(self.size / 8) + self.nonzero * each < self.size * each

    @cached_property
    def parts(self) -> tuple[TensorPart, ...]:
        if not self.sparse:
            return (TensorPart("", self.shape, self.dtype),)
        return (
            TensorPart(".values", (self.nonzero,), self.dtype),
            TensorPart(".mask", (math.ceil(self.size / 8),), "uint8"),
        )

    @property
    def holds(self) -> str:
        return "floats"

    @property
    def label(self) -> str:
        return f"sparse {self.dtype} + bitmask" if self.sparse else f"dense {self.dtype}"

    @property
    def plain(self) -> bool:
        return not self.pruned


@dataclass(frozen=True)
class _Packed:
    """A pruned weight in memory as in the file: the nonzero values (n,) and a bit for each value of `shape`."""

    values: Tensor
    mask: Tensor
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        mask = tensor != 0
        return cls(tensor[mask], bits.pack_mask(mask), tuple(tensor.shape))

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    def load(self) -> Tensor:
        tensor = torch.zeros(self.shape, dtype=self.values.dtype)
        tensor[bits.unpack_mask(self.mask, self.shape)] = self.values
        return tensor


class Dense(Encoded):
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")

    def __init__(
        self,
        values: Tensor | LazyTensor | _Packed,
        zeros_wanted: bool = False,
        zeros: int | None = None,
    ) -> None:
        """Values, or a way to read them when they are needed; `zeros` where it is known how many there are."""
        self._source: Tensor | LazyTensor | _Packed = values
        self.shape, self.dtype = tuple(values.shape), values.dtype
        self.zeros_wanted, self._zeros = zeros_wanted, zeros
        if zeros_wanted and isinstance(values, Tensor) and self.plan.sparse:
            self._source = _Packed.of(values)

    def decode(self) -> Tensor:
        return self._source if isinstance(self._source, Tensor) else self._source.load()

    def rows(self, wanted: Tensor) -> Tensor:
        if isinstance(self._source, LazyTensor) and (part := self._source.part) is not None:
            return torch.cat([part(row, row + 1) for row in wanted.tolist()])
        return super().rows(wanted)

    def slices(self) -> Iterator[Tensor]:
        if isinstance(self._source, LazyTensor):
            return self._source.slices()
        return super().slices()

    @property
    def memory_bytes(self) -> int:
        return 0 if isinstance(self._source, LazyTensor) else self.plan.bytes

    @property
    def value_dtype(self) -> torch.dtype:
        return self.dtype

    @cached_property
    def zeros(self) -> int:
        if isinstance(self._source, _Packed):
            return torch.Size(self.shape).numel() - self._source.values.numel()
        if self._zeros is not None:
            return self._zeros
        if not self.dtype.is_floating_point:
            return 0
        return sum(count_zeros(some) for some in self.slices())

    @property
    def plan(self) -> DensePlan:
        return DensePlan(self.shape, dtype_name(self.dtype), zeros=self.zeros, zeros_wanted=self.zeros_wanted)

    def parts(self) -> dict[str, Tensor]:
        if not self.plan.sparse:
            return {"": self.decode()}
        packed = self._source if isinstance(self._source, _Packed) else _Packed.of(self.decode())
        return {".values": packed.values, ".mask": packed.mask}

    def filed_parts(self) -> Mapping[str, LazyTensor]:
        if isinstance(self._source, LazyTensor) and not self.plan.sparse:
            return {"": self._source}
        return super().filed_parts()

    @classmethod
    def suffixes(cls, meta: Mapping[str, Any]) -> tuple[str, ...]:
        return ("",) if meta["kind"] == "dense" else (".values", ".mask")

    @classmethod
    def from_parts(cls, parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        wanted = bool(meta.get("pruned"))
        if meta["kind"] == "dense":
            return cls(parts[""], zeros_wanted=wanted)
        packed = _Packed(parts[".values"], parts[".mask"], tuple(meta["shape"]))
        marked = int(bits.unpack_mask(packed.mask, packed.shape).sum())
        if packed.values.shape != (marked,):
            raise ValueError(f"its bitmask marks {marked} values, and {packed.values.numel()} are there")
        if packed.dtype != dtype_of(meta["dtype"]):
            raise ValueError(f"its values are {dtype_name(packed.dtype)}, not {meta['dtype']}")
        return cls(packed, zeros_wanted=wanted)

    def with_values(self, values: Tensor) -> Dense:
        return Dense(values.to(self.dtype).contiguous(), zeros_wanted=self.zeros_wanted)

    def in_training(self, transposed: bool, device: torch.device, train_scales: bool) -> FormInTraining:
        return DenseInTraining(self, transposed)


class DenseInTraining(FormInTraining):
    """Trained in float32, whatever they are stored in."""

    plain = True

    def rounded(self, values: Tensor) -> Tensor:
        return values
