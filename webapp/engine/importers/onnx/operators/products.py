"""Operators that multiply with weights: matrices, convolutions, sums over letters."""

from __future__ import annotations

from typing import Any

from webapp.engine.importers.exported_program.serialized import NotRun
from webapp.engine.importers.onnx.values import Value, largest, tensor
from webapp.engine.lazy import Tensor, functional, torch

from .table import operator

LINEAR = "pare.Linear"  # a MatMul with a weight (in, out), and the Add of its bias


@operator(LINEAR)
def linear(_: Any, x: Value, weight: Value, bias: Value) -> Value:
    return functional.linear(tensor(x), tensor(weight).t(), tensor(bias))


@operator("MatMul")
def matmul(_: Any, a: Value, b: Value) -> Value:
    return torch.matmul(tensor(a), tensor(b))


@operator("com.microsoft.FusedMatMul")
def fused_matmul(node: Any, a: Value, b: Value) -> Any:
    x, y = tensor(a), tensor(b)
    if node.get("transBatchA", 0) or node.get("transBatchB", 0):
        raise NotRun("multiplies matrices whose batch is in their last axes")
    x = x.transpose(-1, -2) if node.get("transA", 0) else x
    y = y.transpose(-1, -2) if node.get("transB", 0) else y
    return torch.matmul(x, y) * node.get("alpha", 1.0)


@operator("Gemm")
def gemm(node: Any, a: Value, b: Value, c: Value | None = None) -> Any:
    """alpha A' B' + beta C."""
    x, weight = tensor(a), tensor(b)
    x = x.t() if node.get("transA", 0) else x
    outputs_first = weight if node.get("transB", 0) else weight.t()
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if alpha != 1:
        made = functional.linear(x, outputs_first) * alpha
    elif beta == 1 and c is not None and tensor(c).dim() == 1 and tensor(c).shape[0] == outputs_first.shape[0]:
        return functional.linear(x, outputs_first, tensor(c))
    else:
        made = functional.linear(x, outputs_first)
    if c is None:
        return made
    return made + tensor(c) * beta if beta != 1 else made + tensor(c)


@operator("Einsum")
def einsum(node: Any, *values: Value) -> Value:
    return torch.einsum(node.get("equation", ""), *(tensor(value) for value in values))


def windows(node: Any, sizes: Any, kernel: list[int]) -> tuple[list[int], list[int], list[Any]]:
    """Strides, dilations, and pads as [begin, end] for each place axis."""
    axes = len(kernel)
    strides, dilations = node.get("strides") or [1] * axes, node.get("dilations") or [1] * axes
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
            reach = (k - 1) * d + 1
            total = reach - 1 if s == 1 else largest(0, ((size + s - 1) // s - 1) * s + reach - size)
            less = total // 2
            pads.append([less, total - less] if auto == "SAME_UPPER" else [total - less, less])
        return strides, dilations, pads
    flat = [0] * (2 * axes) if auto == "VALID" else node.get("pads") or [0] * (2 * axes)
    return strides, dilations, [[flat[i], flat[i + axes]] for i in range(axes)]


def flat_pads(pads: list[Any]) -> list[Any]:
    """In the order of torch: the last axis first."""
    return [side for both in reversed(pads) for side in both]


CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def _axes(weight: Tensor, x: Tensor) -> int:
    axes = weight.dim() - 2
    if axes not in CONVOLUTIONS or x.dim() != weight.dim():
        raise NotRun(f"convolves tensors of {x.dim()} axes with kernels of {weight.dim()}")
    return axes


@operator("Conv")
def conv(node: Any, x: Value, weight: Value, bias: Value | None = None) -> Value:
    value, kernel = tensor(x), tensor(weight)
    axes = _axes(kernel, value)
    strides, dilations, pads = windows(node, value.shape[2:], list(kernel.shape[2:]))
    even = all(isinstance(a, int) and isinstance(b, int) and a == b and a >= 0 for a, b in pads)
    if not even:
        value, pads = torch.constant_pad_nd(value, flat_pads(pads), 0.0), [[0, 0]] * axes
    own = None if bias is None else tensor(bias)
    padding = [both[0] for both in pads]
    return CONVOLUTIONS[axes](value, kernel, own, strides, padding, dilations, node.get("group", 1))


@operator("ConvTranspose")
def conv_transpose(node: Any, x: Value, weight: Value, bias: Value | None = None) -> Value:
    value, kernel = tensor(x), tensor(weight)
    axes = _axes(kernel, value)
    strides, dilations = node.get("strides") or [1] * axes, node.get("dilations") or [1] * axes
    more = node.get("output_padding") or [0] * axes
    reach = [(k - 1) * d + 1 for k, d in zip(kernel.shape[2:], dilations, strict=True)]
    wanted, auto = node.get("output_shape"), node.get("auto_pad", "NOTSET")
    if wanted is not None or auto.startswith("SAME"):
        sizes = wanted[-axes:] if wanted is not None else [n * s for n, s in zip(value.shape[2:], strides, strict=True)]
        pads = []
        for n, s, size, r, m in zip(value.shape[2:], strides, sizes, reach, more, strict=True):
            total = s * (n - 1) + m + r - size
            less = total // 2
            pads.append([less, total - less] if auto == "SAME_UPPER" else [total - less, less])
    else:
        flat = node.get("pads") or [0] * (2 * axes)
        pads = [[flat[i], flat[i + axes]] for i in range(axes)]
    own = None if bias is None else tensor(bias)
    made = TRANSPOSED[axes](value, kernel, own, strides, 0, 0, node.get("group", 1), dilations)
    trims = [[-begin, extra - end] for (begin, end), extra in zip(pads, more, strict=True)]
    if all(isinstance(side, int) and side == 0 for both in trims for side in both):
        return made
    return torch.constant_pad_nd(made, flat_pads(trims), 0.0)
