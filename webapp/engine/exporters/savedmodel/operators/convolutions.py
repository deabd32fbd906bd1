"""Convolutions, with their channels last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from webapp.engine.exporters.savedmodel.values import Dynamic, Tensor, Value
from webapp.engine.exporters.savedmodel.weights import Weight

from .registry import ConvertedNode, Unmapped, layouts

KERNEL = (2, 3, 1, 0)  # (out, in, height, width) -> (height, width, in, out)
KERNEL_OF_LINES = (2, 1, 0)


@dataclass(frozen=True)
class Window:
    """What slides over height and width: sizes, strides, dilations, and (begin, end) of the padding."""

    size: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]

    @property
    def padded(self) -> bool:
        return any(amount for pair in self.pads for amount in pair)

    @property
    def same(self) -> bool:
        """Whether TensorFlow's SAME pads so at every size of the input."""
        reach = [(size - 1) * dilation for size, dilation in zip(self.size, self.dilations, strict=True)]
        even = all(pair == (along // 2, along // 2) for pair, along in zip(self.pads, reach, strict=True))
        return even and self.strides == (1, 1) and not any(along % 2 for along in reach)

    def pad(self, x: Tensor, value: Any = 0.0) -> Tensor:
        """(N, H, W, C) padded with `value`."""
        return tf.pad(x, [(0, 0), *self.pads, (0, 0)], constant_values=value) if self.padded else x


def window(node: ConvertedNode, size: tuple[int, ...]) -> Window:
    """Of a node over one axis or two; one is taken for the width, and the height is 1."""
    axes = len(size)
    if axes not in (1, 2):
        raise Unmapped(f"{node.operator} over {axes} axes")
    if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Unmapped(f"{node.operator} with auto_pad {node.get('auto_pad')}")
    strides, dilations = node.get("strides") or [1] * axes, node.get("dilations") or [1] * axes
    pads = node.get("pads") or [0] * (2 * axes)
    pairs = list(zip(pads[:axes], pads[axes:], strict=True))
    if axes == 1:
        size, strides, dilations, pairs = (1, *size), [1, *strides], [1, *dilations], [(0, 0), *pairs]
    return Window(
        (int(size[0]), int(size[1])),
        (int(strides[0]), int(strides[1])),
        (int(dilations[0]), int(dilations[1])),
        ((int(pairs[0][0]), int(pairs[0][1])), (int(pairs[1][0]), int(pairs[1][1]))),
    )


@layouts("Conv")
def convolution(node: ConvertedNode, x: Value, weight: Value, bias: Value | None = None) -> Value:
    lines = weight.rank == 3
    kernel = _kernel(weight, KERNEL_OF_LINES if lines else KERNEL)
    if lines:  # (N, C, L) as images of one row
        kernel, x = kernel[tf.newaxis], Dynamic(tf.transpose(x.plain(), (0, 2, 1))[:, tf.newaxis], True)
    slides = window(node, (kernel.shape[1],) if lines else (kernel.shape[0], kernel.shape[1]))
    found = _convolved(x.channels_last(), kernel, slides, int(node.get("group", 1)))
    if bias is not None:
        found = tf.nn.bias_add(found, bias.plain())
    return Dynamic(tf.transpose(found[:, 0], (0, 2, 1))) if lines else Dynamic(found, True)


def _kernel(weight: Value, axes: tuple[int, ...]) -> Tensor:
    return weight.permuted(axes) if isinstance(weight, Weight) else tf.transpose(weight.plain(), axes)


def _convolved(x: Tensor, kernel: Tensor, slides: Window, groups: int) -> Tensor:
    """Grouped ones by parts, and by TensorFlow's own operator where each channel is for itself.

    That operator ends the process when it is told how to pad: it is given SAME where that is what is meant, or
    nothing to pad.
    """
    if groups == 1:
        padding: Any = [(0, 0), *slides.pads, (0, 0)] if slides.padded else "VALID"
        return tf.nn.conv2d(x, kernel, slides.strides, padding, dilations=slides.dilations)
    strides, dilations = slides.strides, slides.dilations
    own = kernel.shape[2] == 1 and strides[0] == strides[1] and (strides == (1, 1) or dilations == (1, 1))
    if own:
        height, width, _, out = kernel.shape
        kernel = tf.reshape(kernel, [height, width, groups, out // groups])
        x, padding = (x, "SAME") if slides.same else (slides.pad(x), "VALID")
        return tf.nn.depthwise_conv2d(x, kernel, (1, *strides, 1), padding, dilations=dilations)
    parts = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
    return tf.concat([_convolved(part, own_kernel, slides, 1) for part, own_kernel in parts], -1)
