"""Operators that look at windows of places, or at all of them: pools and resizing."""

from __future__ import annotations

import math
from typing import Any

from webapp.engine.importers.exported_program.serialized import NotRun
from webapp.engine.importers.onnx.values import KnownNumbers, Value, numbers, tensor
from webapp.engine.lazy import Tensor, functional, torch

from .products import flat_pads, windows
from .table import operator

MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def _window(node: Any, x: Tensor) -> tuple[list[int], list[int], list[int], list[Any], bool]:
    kernel = node.get("kernel_shape") or []
    if len(kernel) not in MAX or len(kernel) != x.dim() - 2 or min(kernel) < 1:
        raise NotRun(f"pools tensors of {x.dim()} axes by windows of {str(kernel)[:40]}")
    strides, dilations, pads = windows(node, x.shape[2:], kernel)
    even = all(isinstance(a, int) and isinstance(b, int) and a == b for a, b in pads)
    return kernel, strides, dilations, pads, even and all(2 * p[0] <= k for p, k in zip(pads, kernel, strict=True))


@operator("MaxPool")
def max_pool(node: Any, x: Value) -> Value:
    value = tensor(x)
    kernel, strides, dilations, pads, simple = _window(node, value)
    if len(node.outputs) > 1 and node.outputs[1]:
        raise NotRun("keeps the places of a MaxPool")
    if not simple:
        value = torch.constant_pad_nd(value, flat_pads(pads), -math.inf)
        pads = [[0, 0]] * len(kernel)
    padding, ceil = [both[0] for both in pads], bool(node.get("ceil_mode", 0))
    return MAX[len(kernel)](value, kernel, strides, padding, dilations, ceil)


@operator("AveragePool")
def average_pool(node: Any, x: Value) -> Value:
    value = tensor(x)
    kernel, strides, dilations, pads, simple = _window(node, value)
    if any(d != 1 for d in dilations):
        raise NotRun("averages windows with gaps")
    run, counted, ceil = AVERAGE[len(kernel)], bool(node.get("count_include_pad", 0)), bool(node.get("ceil_mode", 0))
    if simple:
        return run(value, kernel, strides, [both[0] for both in pads], ceil, counted)
    wide = torch.constant_pad_nd(value, flat_pads(pads), 0.0)
    summed = run(wide, kernel, strides, 0, ceil, True)
    if counted:
        return summed
    ones = torch.constant_pad_nd(torch.ones_like(value[:1, :1]), flat_pads(pads), 0.0)
    return summed / run(ones, kernel, strides, 0, ceil, True)


@operator("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: Any, x: Value) -> Value:
    value = tensor(x)
    axes = list(range(2, value.dim()))
    if node.op == "GlobalMaxPool":
        return torch.amax(value, axes, True)
    return functional.adaptive_avg_pool2d(value, 1) if len(axes) == 2 else torch.mean(value, axes, True)


@operator("Resize", "Upsample")
def resize(
    node: Any, x: Value, roi: Value | None = None, scales: Value | None = None, sizes: Value | None = None
) -> Value:
    """Of (B, C, …) its places, by nearest or linear, where torch has the same places."""
    value = tensor(x)
    if node.op == "Upsample" or node.opset == 10:
        scales = roi  # they have no region
    factors = node.get("scales") if scales is None else _floats(scales)
    axes = value.dim() - 2
    if sizes is not None:
        whole = numbers(sizes, "sizes of a resize")
        if (
            len(whole) != value.dim()
            or node.get("axes")
            or node.get("keep_aspect_ratio_policy", "stretch") != "stretch"
        ):
            raise NotRun("resizes in a way that Pare does not run")
        size, factor = whole[2:], None
    elif factors and len(factors) == value.dim() and factors[0] == factors[1] == 1:
        factor = factors[2:]
        size = [_scaled(n, f) for n, f in zip(value.shape[2:], factor, strict=True)]
    else:
        raise NotRun("resizes by factors that Pare does not run")
    mode, how = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    old = node.op == "Upsample" or node.opset == 10
    if mode == "nearest":
        grows = factor is not None and all(f == int(f) and f >= 1 for f in factor)
        floors = how == "asymmetric" and node.get("nearest_mode", "round_prefer_floor") == "floor"
        if not (old or grows or floors):
            raise NotRun(f"resizes to the nearest by {how[:40]}")
        return functional.interpolate(value, size)
    linear = {1: "linear", 2: "bilinear"}.get(axes)
    if mode != "linear" or linear is None or old or how not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise NotRun(f"resizes by {mode[:40]} with {how[:40]}")
    if node.get("antialias", 0) or node.get("axes"):
        raise NotRun("resizes with antialias, or along axes that it lists")
    corners = how == "align_corners"
    exact = factor is None or all(
        f == int(f) or float(n * f).is_integer() for n, f in zip(value.shape[2:], factor, strict=True)
    )
    if not exact and not corners and node.opset >= 11:  # the factor counts, and not the rounded size
        return functional.interpolate(value, scale_factor=factor, mode=linear, align_corners=False)
    if not exact or (how == "pytorch_half_pixel" and 1 in size):
        raise NotRun(f"resizes to sizes that are not whole by {how[:40]}")
    return functional.interpolate(value, size, mode=linear, align_corners=corners)


def _scaled(size: Any, factor: float) -> Any:
    return size * int(factor) if factor == int(factor) else math.floor(size * factor)


def _floats(scales: Value) -> list[Any] | None:
    if isinstance(scales, KnownNumbers):
        return numbers(scales, "factors of a resize") or None
    raise NotRun("computes the factors of a resize from its samples")
