"""Values as they are; zeros are left out behind a bitmask where the plan finds that smaller."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from webapp.engine.facts import DTYPE_BYTES
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import bits

from .base import Encoded, FormInTraining, SimplePlan, TensorPart
from .safetensors import dtype_name, dtype_of


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

    def __call__(self) -> Tensor:
        tensor = torch.zeros(self.shape, dtype=self.values.dtype)
        tensor[bits.unpack_mask(self.mask, self.shape)] = self.values
        return tensor


class Dense(Encoded):
    kinds = ("dense", "sparse")

    def __init__(
        self,
        tensor: Tensor | Callable[[], Tensor],
        shape: tuple[int, ...] | None = None,
        dtype: torch.dtype | None = None,
        zeros_wanted: bool = False,
    ) -> None:
        """A tensor, or a way to read it (with its shape and dtype), so that a file is read when it is needed."""
        self._source = tensor
        if isinstance(tensor, Tensor):
            self.shape, self.dtype = tuple(tensor.shape), tensor.dtype
        else:
            assert shape is not None
            assert dtype is not None
            self.shape, self.dtype = tuple(shape), dtype
        self.zeros_wanted = zeros_wanted
        if zeros_wanted and isinstance(tensor, Tensor) and self.plan.sparse:
            self._source = _Packed.of(tensor)

    def decode(self) -> Tensor:
        return self._source if isinstance(self._source, Tensor) else self._source()

    @property
    def value_dtype(self) -> torch.dtype:
        return self.dtype

    @cached_property
    def zeros(self) -> int:
        if isinstance(self._source, _Packed):
            return torch.Size(self.shape).numel() - self._source.values.numel()
        tensor = self.decode()
        return tensor.numel() - int(torch.count_nonzero(tensor)) if tensor.is_floating_point() else 0

    @property
    def plan(self) -> DensePlan:
        return DensePlan(self.shape, dtype_name(self.dtype), zeros=self.zeros, zeros_wanted=self.zeros_wanted)

    def parts(self) -> dict[str, Tensor]:
        if not self.plan.sparse:
            return {"": self.decode()}
        packed = self._source if isinstance(self._source, _Packed) else _Packed.of(self.decode())
        return {".values": packed.values, ".mask": packed.mask}

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
        return cls(packed, packed.shape, dtype_of(meta["dtype"]), zeros_wanted=wanted)

    def with_values(self, values: Tensor) -> Dense:
        return Dense(values.to(self.dtype).contiguous(), zeros_wanted=self.zeros_wanted)

    def in_training(self, transposed: bool, device: torch.device, train_scales: bool) -> FormInTraining:
        return DenseInTraining(self, transposed)


class DenseInTraining(FormInTraining):
    """Trained in float32, whatever they are stored in."""

    plain = True

    def rounded(self, values: Tensor) -> Tensor:
        return values
