"""Values as they are; zeros are left out behind a bitmask where the plan finds that smaller."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from ..math import bits
from ..plans import DensePlan
from .base import Encoded, dtype_name, dtype_of


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

    def decode(self) -> Tensor:
        return self._source if isinstance(self._source, Tensor) else self._source()

    @cached_property
    def zeros(self) -> int:
        tensor = self.decode()
        return tensor.numel() - int(torch.count_nonzero(tensor)) if tensor.is_floating_point() else 0

    @property
    def plan(self) -> DensePlan:
        return DensePlan(self.shape, dtype_name(self.dtype), zeros=self.zeros, zeros_wanted=self.zeros_wanted)

    def parts(self) -> dict[str, Tensor]:
        tensor = self.decode()
        if not self.plan.sparse:
            return {"": tensor}
        mask = tensor != 0
        return {".values": tensor[mask], ".mask": bits.pack_mask(mask)}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        wanted = bool(meta.get("pruned"))
        if meta["kind"] == "dense":
            return cls(parts[""], zeros_wanted=wanted)
        shape = tuple(meta["shape"])
        tensor = torch.zeros(shape, dtype=dtype_of(meta["dtype"]))
        tensor[bits.unpack_mask(parts[".mask"], shape)] = parts[".values"]
        return cls(tensor, zeros_wanted=wanted)
