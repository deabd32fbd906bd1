"""What stands for a value of the ONNX graph while TensorFlow's graph is made of it.

A value is known already (shapes, axes), or a weight, which depends on stored tensors alone, or comes with a request.
Of rank 4 it may lie with its channels last, as convolutions want it, from one convolution to the next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

Tensor: TypeAlias = Any  # of TensorFlow, or an array of numpy
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
RANK = 4  # of what can have its channels last


class Value(ABC):
    @property
    @abstractmethod
    def rank(self) -> int: ...

    @abstractmethod
    def plain(self) -> Tensor:
        """As it is in the ONNX graph."""

    def channels_last(self) -> Tensor:
        """As it broadcasts with (N, H, W, C)."""
        tensor, missing = self.plain(), RANK - self.rank
        if missing == RANK:
            return tensor
        return tf.transpose(tensor[(np.newaxis,) * missing] if missing else tensor, TO_LAST)


@dataclass(frozen=True)
class ConstantValue(Value):
    array: np.ndarray[Any, Any]

    @property
    def rank(self) -> int:
        return self.array.ndim

    def plain(self) -> Tensor:
        return self.array


@dataclass(frozen=True)
class Dynamic(Value):
    """`tensor` is (N, C, H, W) as in the ONNX graph, or (N, H, W, C) where `last`."""

    tensor: Tensor
    last: bool = False

    @property
    def rank(self) -> int:
        return len(self.tensor.shape)

    def plain(self) -> Tensor:
        return tf.transpose(self.tensor, TO_FIRST) if self.last else self.tensor

    def channels_last(self) -> Tensor:
        return self.tensor if self.last else super().channels_last()


def aligned(values: Sequence[Value]) -> tuple[list[Tensor], bool]:
    """The tensors as they broadcast together, and whether that is with the channels last."""
    last = any(isinstance(value, Dynamic) and value.last for value in values)
    if last and all(value.rank <= RANK for value in values):
        return [value.channels_last() for value in values], True
    return [value.plain() for value in values], False
