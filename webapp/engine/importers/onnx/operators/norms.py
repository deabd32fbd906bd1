"""Operators that normalize."""

from __future__ import annotations

from typing import Any

from webapp.engine.importers.exported_program.serialized import NotRun
from webapp.engine.importers.onnx.values import Value, tensor
from webapp.engine.lazy import Tensor, functional, torch

from .shapes import as_rows
from .table import operator


@operator("BatchNormalization")
def batch_norm(node: Any, x: Value, scale: Value, bias: Value, mean: Value, variance: Value) -> Value:
    if node.get("training_mode", 0) or (node.opset < 7 and not node.get("is_test", 0)):
        raise NotRun("normalizes over the batch, as in training")
    centre, spread, weight, own = (tensor(value) for value in (mean, variance, scale, bias))
    momentum, eps = 1 - node.get("momentum", 0.9), node.get("epsilon", 1e-5)
    return functional.batch_norm(tensor(x), centre, spread, weight, own, False, momentum, eps)


@operator("LayerNormalization")
def layer_norm(node: Any, x: Value, scale: Value, bias: Value | None = None) -> Value:
    """Over the axes from `axis` on."""
    value, weight = tensor(x), tensor(scale)
    own = None if bias is None else tensor(bias)
    axis, eps = node.get("axis", -1) % value.dim(), node.get("epsilon", 1e-5)
    if len(node.outputs) > 1 and any(node.outputs[1:]):
        raise NotRun("keeps the statistics of a LayerNormalization")
    if weight.dim() == value.dim() - axis and all(isinstance(size, int) for size in weight.shape):
        return functional.layer_norm(value, weight.shape, weight, own, eps)
    axes = list(range(axis, value.dim()))
    centred = value - value.mean(axes, True)
    made = centred / torch.sqrt((centred * centred).mean(axes, True) + eps) * weight
    return made if own is None else made + own


@operator("com.microsoft.SkipLayerNormalization")
def skip_layer_norm(
    node: Any, x: Value, skip: Value, scale: Value, shift: Value | None = None, bias: Value | None = None
) -> list[Value | None]:
    """Of a sum, which is the fourth output."""
    summed = tensor(x) + tensor(skip)
    summed = summed if bias is None else summed + tensor(bias)
    weight, own = tensor(scale), None if shift is None else tensor(shift)
    made = functional.layer_norm(summed, weight.shape, weight, own, node.get("epsilon", 1e-12))
    return [made, None, None, summed]


@operator("RMSNormalization", "SimplifiedLayerNormalization", "com.microsoft.SimplifiedLayerNormalization")
def rms_norm(node: Any, x: Value, scale: Value) -> Value:
    value, weight = tensor(x), tensor(scale)
    axes = list(range(node.get("axis", -1) % value.dim(), value.dim()))
    return value * torch.rsqrt((value * value).mean(axes, True) + node.get("epsilon", 1e-5)) * weight


@operator("com.microsoft.SkipSimplifiedLayerNormalization")
def skip_rms_norm(node: Any, x: Value, skip: Value, scale: Value, bias: Value | None = None) -> list[Value | None]:
    summed = tensor(x) + tensor(skip)
    summed = summed if bias is None else summed + tensor(bias)
    return [rms_norm(node, summed, scale), None, None, summed]


@operator("GroupNormalization")
def group_norm(node: Any, x: Value, scale: Value, bias: Value) -> Value:
    """Scale and bias are of each group in opset 18, of each channel since 21."""
    value, weight, own, groups = tensor(x), tensor(scale), tensor(bias), node.get("num_groups", 1)
    eps = node.get("epsilon", 1e-5)
    if weight.shape[0] == value.shape[1]:
        return functional.group_norm(value, groups, weight, own, eps)
    each = value.shape[1] // groups
    made = functional.group_norm(value, groups, None, None, eps)
    return made * as_rows(weight.repeat_interleave(each), value.dim()) + as_rows(
        own.repeat_interleave(each), value.dim()
    )


@operator("InstanceNormalization")
def instance_norm(node: Any, x: Value, scale: Value, bias: Value) -> Value:
    """Which is a group of each channel."""
    value = tensor(x)
    weight: Tensor = tensor(scale)
    return functional.group_norm(value, weight.shape[0], weight, tensor(bias), node.get("epsilon", 1e-5))


@operator("LpNormalization")
def lp_norm(node: Any, x: Value) -> Value:
    value, axis = tensor(x), node.get("axis", -1)
    size = torch.sqrt((value * value).sum(axis, True)) if node.get("p", 2) == 2 else value.abs().sum(axis, True)
    return value / size


@operator("LRN")
def local_response_norm(node: Any, x: Value) -> Any:
    """torch pads its window at the other end where it is even; ONNX has (size - 1) // 2 before."""
    value, size = tensor(x), node.get("size", 1)
    squares = (value * value).unsqueeze(1)
    padded = torch.constant_pad_nd(squares, [0, 0] * (value.dim() - 2) + [(size - 1) // 2, size // 2], 0.0)
    summed = sum(padded[:, 0, i : i + value.shape[1]] for i in range(min(size, 1000)))
    return value / (node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * summed) ** node.get("beta", 0.75)
