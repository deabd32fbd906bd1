"""Convolutions of integers, with the batch normalisation that follows folded into their scales and their bias."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.engine.architectures.build import Leaves
from webapp.engine.lazy import Tensor, torch
from webapp.engine.weights import Quantized
from webapp.engine.weights.activations import Activations

from .integers import IntegerProductNodes
from .products import Use, only_user


@dataclass(frozen=True)
class _Affine:
    """What is done to each output channel after the integers are added up: times `factor`, plus `offset`."""

    factor: Tensor
    offset: Tensor


def convolution(integers: IntegerProductNodes, use: Use, name: str, leaf: Quantized, plan: Activations) -> None:
    """Puts the integer form in the place of a convolution, and of what it makes superfluous after it."""
    assert plan.input is not None
    draw, leaves, path = integers.drawing, integers.leaves, name.removesuffix(".weight")
    norm = only_user(use.output) if plan.result_at not in (None, path) else None
    affine, nodes, end = _affine(path, leaf, leaves), [use.node], use.output
    if norm is not None and norm.op_type == "BatchNormalization":
        assert plan.result_at is not None
        affine = _folded(affine, plan.result_at, norm.attributes.get_float("epsilon", 1e-5), leaves)
        nodes, end = [norm, *nodes], norm.outputs[0]
    scale = leaf.grid.scale.float()[:, 0] * affine.factor
    weight = integers.weight(name, leaf, leaf.shape, 0, draw.tensor(f"{name}.folded_scale", scale))
    given = [integers.quantized(use.x, plan.input, use.node), weight]
    if bool(affine.offset.any()):
        given.append(integers.bias(name, affine.offset, scale * plan.input.scale))
    made = draw.node("Conv", *given, before=use.node, **{key: a.value for key, a in use.node.attributes.items()})
    if plan.result is not None:
        made = integers.quantized(made, plan.result, use.node)
        clip = only_user(end)
        if plan.result.zero == 0 and clip is not None and clip.op_type == "Relu":  # the range begins at zero
            nodes, end = [clip, *nodes], clip.outputs[0]
    draw.replace(end, made)
    for node in nodes:
        draw.graph.remove(node, safe=True)


def _affine(path: str, leaf: Quantized, leaves: Leaves) -> _Affine:
    bias = leaves.get(f"{path}.bias")
    rows = len(leaf.codes)
    return _Affine(torch.ones(rows), bias[0].decode().float() if bias is not None else torch.zeros(rows))


def _folded(affine: _Affine, path: str, epsilon: float, leaves: Leaves) -> _Affine:
    """(y - mean) / sqrt(variance + epsilon) * weight + bias, of y = affine(x)."""

    def of(part: str, otherwise: float) -> Tensor:
        found = leaves.get(f"{path}.{part}")
        return torch.full_like(affine.factor, otherwise) if found is None else found[0].decode().float()

    factor = of("weight", 1.0) / (of("running_var", 1.0) + epsilon).sqrt()
    return _Affine(affine.factor * factor, (affine.offset - of("running_mean", 0.0)) * factor + of("bias", 0.0))
