"""Products with weights in a program's steps: which step could be which layer of torch.nn, read from its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webapp.engine.architectures.program.module import names_in

from .serialized import ProgramDraft

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Product:
    """A step that can be a layer: `own` maps the parts of the layer to tensors of the program ("@name")."""

    step: int
    about: dict[str, Any]
    x: Any
    own: dict[str, str]
    transposed: bool = False  # the weight is (in, out)
    first: bool = False  # the operator gives several results, of which the first is the layer's


def _tensor(arg: Any) -> bool:
    return isinstance(arg, str) and arg[0] == "@"


def _linear(number: int, args: list[Any], shapes: Shapes, views: Mapping[str, str], _: ProgramDraft) -> Product | None:
    x, weight, bias = (*args, None)[:3] if len(args) < 3 else args[:3]
    if weight in views:  # the transpose of one that is (in, out)
        return _product(number, x, views[weight], bias, True, shapes)
    return _product(number, x, weight, bias, False, shapes)


def _mm(number: int, args: list[Any], shapes: Shapes, views: Mapping[str, str], draft: ProgramDraft) -> Product | None:
    return _matrix(number, args[0], args[1], None, shapes, views)


def _addmm(
    number: int, args: list[Any], shapes: Shapes, views: Mapping[str, str], draft: ProgramDraft
) -> Product | None:
    return _matrix(number, args[1], args[2], args[0], shapes, views) if len(args) == 3 else None


def _matrix(number: int, x: Any, weight: Any, bias: Any, shapes: Shapes, views: Mapping[str, str]) -> Product | None:
    if weight in views:
        return _product(number, x, views[weight], bias, False, shapes)
    return _product(number, x, weight, bias, True, shapes)


def _product(number: int, x: Any, weight: Any, bias: Any, transposed: bool, shapes: Shapes) -> Product | None:
    if not _tensor(weight) or len(shapes[weight[1:]]) != 2 or _tensor(x) or not isinstance(x, str):
        return None
    outputs, inputs = shapes[weight[1:]][::-1] if transposed else shapes[weight[1:]]
    if bias is not None and not (_tensor(bias) and shapes[bias[1:]] == (outputs,)):
        return None
    about = {"kind": "linear", "in": inputs, "out": outputs, "bias": bias is not None}
    return Product(number, about, x, _own(weight=weight, bias=bias), transposed)


def _own(**parts: Any) -> dict[str, str]:
    return {part: name for part, name in parts.items() if name is not None}


def _conv(number: int, args: list[Any], shapes: Shapes, __: Mapping[str, str], draft: ProgramDraft) -> Product | None:
    target = draft.steps[number][0]
    x, weight, bias, stride, padding, *more = [*args, *[None] * 9][:9]
    if not _tensor(weight) or (bias is not None and not _tensor(bias)):
        return None
    transposed, more_output = "conv_transpose" in target, None
    if target == "aten.convolution.default":
        dilation, transposed, more_output, groups = more
    elif transposed:
        more_output, groups, dilation, _ = more
    else:
        dilation, groups, *_ = more
    rows, columns, *kernel = shapes[weight[1:]]
    if not 1 <= len(kernel) <= 3 or _names(stride, padding, dilation, more_output):
        return None
    groups, axes = groups or 1, len(kernel)
    about = {
        "kind": "conv",
        "in": rows if transposed else columns * groups,
        "out": columns * groups if transposed else rows,
        "kernel": kernel,
        "stride": _each(stride, 1, axes),
        "padding": padding.removeprefix("string:") if isinstance(padding, str) else _each(padding, 0, axes),
        "dilation": _each(dilation, 1, axes),
        "groups": groups,
        "bias": bias is not None,
    }
    if transposed:
        about["output_padding"] = _each(more_output, 0, axes)
    return Product(number, about, x, _own(weight=weight, bias=bias))


def _names(*args: Any) -> bool:
    return any(True for _ in names_in(list(args)))


def _each(value: Any, default: int, axes: int) -> list[int]:
    values = value if isinstance(value, list) else [default if value is None else value]
    return values if len(values) == axes else values * axes


def _embedding(
    number: int, args: list[Any], shapes: Shapes, _: Mapping[str, str], draft: ProgramDraft
) -> Product | None:
    weight, x, padding = [*args, None][:3]
    if not _tensor(weight) or len(shapes[weight[1:]]) != 2 or not isinstance(x, str):
        return None
    rows, dim = shapes[weight[1:]]
    padding = padding if isinstance(padding, int) and 0 <= padding < rows else None
    return Product(number, {"kind": "embedding", "rows": rows, "dim": dim, "padding": padding}, x, _own(weight=weight))


def _batch_norm(
    number: int, args: list[Any], shapes: Shapes, _: Mapping[str, str], draft: ProgramDraft
) -> Product | None:
    x, weight, bias, mean, variance, *rest = args
    momentum, eps = rest[1:3] if draft.steps[number][0] == "aten.batch_norm.default" else rest[:2]
    axes = len(draft.shapes.get(x, ())) if isinstance(x, str) else 0
    own = _own(weight=weight, bias=bias, running_mean=mean, running_var=variance)
    if axes not in (2, 3, 4, 5) or not all(_tensor(name) for name in own.values()) or mean is None or variance is None:
        return None
    if (weight is None) != (bias is None):
        return None
    counter = mean.removesuffix("running_mean") + "num_batches_tracked"
    if counter[1:] in shapes:
        own["num_batches_tracked"] = counter
    about = {
        "kind": "batch_norm",
        "features": shapes[mean[1:]][0],
        "axes": axes,
        "eps": eps,
        "momentum": momentum,
        "affine": weight is not None,
        "counted": "num_batches_tracked" in own,
    }
    return Product(number, about, x, own, first=isinstance(draft.steps[number][1], list))


def _layer_norm(
    number: int, args: list[Any], shapes: Shapes, _: Mapping[str, str], draft: ProgramDraft
) -> Product | None:
    x, shape, weight, bias, eps = [*args, None, None, 1e-5][:5]
    if not _tensor(weight) or (bias is not None and not _tensor(bias)) or tuple(shape) != shapes[weight[1:]]:
        return None
    about = {"kind": "layer_norm", "shape": list(shape), "eps": eps, "bias": bias is not None}
    return Product(number, about, x, _own(weight=weight, bias=bias), first=isinstance(draft.steps[number][1], list))


def _group_norm(
    number: int, args: list[Any], shapes: Shapes, _: Mapping[str, str], draft: ProgramDraft
) -> Product | None:
    x, groups, weight, bias, eps = [*args, None, None, 1e-5][:5]
    if not _tensor(weight) or not _tensor(bias):
        return None
    about = {"kind": "group_norm", "groups": groups, "channels": shapes[weight[1:]][0], "eps": eps}
    return Product(number, about, x, _own(weight=weight, bias=bias))


READERS = {
    "aten.linear.default": _linear,
    "aten.mm.default": _mm,
    "aten.matmul.default": _mm,
    "aten.addmm.default": _addmm,
    "aten.embedding.default": _embedding,
    "aten.batch_norm.default": _batch_norm,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    "aten.layer_norm.default": _layer_norm,
    "aten.native_layer_norm.default": _layer_norm,
    "aten.group_norm.default": _group_norm,
    **dict.fromkeys([f"aten.conv{n}d.{kind}" for n in (1, 2, 3) for kind in ("default", "padding")], _conv),
    "aten.conv_transpose1d.default": _conv,
    "aten.conv_transpose2d.input": _conv,
    "aten.conv_transpose3d.input": _conv,
    "aten.convolution.default": _conv,
}
