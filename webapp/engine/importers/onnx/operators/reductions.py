"""Operators that leave out axes: sums, means, the largest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from webapp.engine.importers.onnx.values import KnownNumbers, Value, integers, known, tensor
from webapp.engine.lazy import Tensor, torch

from .table import operator


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keep)
    return x


REDUCE: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceSum": torch.sum,
    "ReduceMean": torch.mean,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: torch.sum(x.abs(), axes, keep),
    "ReduceL2": lambda x, axes, keep: torch.sqrt(torch.sum(x * x, axes, keep)),
    "ReduceSumSquare": lambda x, axes, keep: torch.sum(x * x, axes, keep),
    "ReduceLogSum": lambda x, axes, keep: torch.log(torch.sum(x, axes, keep)),
    "ReduceLogSumExp": torch.logsumexp,
}


def _reduced(name: str, run: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Value]:
    def on(node: Any, x: Value, axes: Value | None = None) -> Value:
        """Axes are an attribute, and an input since opset 18 (13 for ReduceSum). None are all, or none if it says."""
        found = node.get("axes") if axes is None else integers(axes, "axes")
        keep = bool(node.get("keepdims", 1))
        if not found and node.get("noop_with_empty_axes", 0):
            return x
        if isinstance(x, KnownNumbers) and name == "ReduceProd" and x.values.ndim == 1:
            return known([math.prod(x.values)] if keep else math.prod(x.values), x.dtype)
        value = tensor(x)
        every = [axis % value.dim() for axis in found] if found else list(range(value.dim()))
        return run(value, every, keep) if every else value

    return on


for _name, _run in REDUCE.items():
    operator(_name)(_reduced(_name, _run))
