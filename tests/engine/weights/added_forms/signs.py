"""A storage form that is added as one file: a bit for each value says its sign, and its row has one size."""

import math
from dataclasses import dataclass

from webapp.engine.lazy import torch
from webapp.engine.math import bits

from .base import Encoded, StoragePlan, TensorPart
from .safetensors import dtype_name, dtype_of


@dataclass(frozen=True)
class SignsPlan(StoragePlan):
    kind = "signs"
    label = "signs"

    @property
    def parts(self):
        return (
            TensorPart(".positive", (math.ceil(self.size / 8),), "uint8"),
            TensorPart(".size", (self.shape[0],), "float32"),
        )


class Signs(Encoded):
    kinds = ("signs",)

    def __init__(self, positive, size, dtype):
        self.positive, self.size, self.dtype, self.shape = positive, size, dtype, tuple(positive.shape)

    @property
    def plan(self):
        return SignsPlan(self.shape, dtype_name(self.dtype))

    def decode(self):
        size = self.size.reshape(-1, *[1] * (len(self.shape) - 1))
        return torch.where(self.positive, size, -size)

    def parts(self):
        return {".positive": bits.pack_mask(self.positive), ".size": self.size}

    @classmethod
    def suffixes(cls, meta):
        return ".positive", ".size"

    @classmethod
    def from_parts(cls, parts, meta):
        return cls(bits.unpack_mask(parts[".positive"], meta["shape"]), parts[".size"], dtype_of(meta["dtype"]))

    def with_values(self, values):
        return Signs(values >= 0, values.float().abs().reshape(len(values), -1).mean(1), self.dtype)
