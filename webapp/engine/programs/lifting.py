"""Finds the layers in a program: a product with a weight becomes a module of torch.nn under the weight's name.

A weight is lifted where everything that is done with it is such a product, so that the module may be replaced by
another. `x @ w` multiplies with w (in, out): its weight is stored turned, as nn.Linear has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .module import DROPOUT, LAYER, names_in
from .serialized import Draft

Shapes = Mapping[str, tuple[int, ...]]
TURNS = ("aten.t.default", "aten.permute.default", "aten.transpose.int", "aten.numpy_T.default")


@dataclass(frozen=True)
class Product:
    """A step that can be a layer: `own` maps the parts of the layer to tensors of the program ("@name")."""

    step: int
    about: dict[str, Any]
    x: Any
    own: dict[str, str]
    turned: bool = False  # the weight is (in, out)
    first: bool = False  # the operator gives several results, of which the first is the layer's


@dataclass
class Lifted:
    """`renamed` maps the new names of tensors to those in the file; `turned` are new names of weights to transpose."""

    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: list[list[Any]] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    turned: set[str] = field(default_factory=set)
    ties: dict[str, str] = field(default_factory=dict)


def lift(draft: Draft, shapes: Shapes, aliases: Mapping[str, list[str]]) -> Lifted:
    """The draft's steps with their layers; `shapes` are of all its tensors, `aliases` the other names of each."""
    views = dict(_turned_views(draft.steps, shapes))
    products = [found for found in _products(draft, shapes, views) if found is not None]
    products = _only_whole(draft, products, views)
    return _named(draft, products, set(shapes), aliases)


def _turned_views(steps: list[list[Any]], shapes: Shapes) -> Iterator[tuple[str, str]]:
    """ "%value" -> "@weight" whose transpose it is."""
    for target, result, args, *_ in steps:
        source = args[0] if args else None
        if target in TURNS and isinstance(source, str) and source[0] == "@" and len(shapes[source[1:]]) == 2:
            axes = args[1] if target == TURNS[1] else args[1:]
            if (
                target in (TURNS[0], TURNS[3])
                or [int(axis) % 2 for axis in axes] in ([1, 0], [0, 1])[: 1 + (target == TURNS[2])]
            ):
                yield result, source


def _products(draft: Draft, shapes: Shapes, views: Mapping[str, str]) -> Iterator[Product | None]:
    for number, (target, result, args, *named) in enumerate(draft.steps):
        reader = READERS.get(target)
        if reader is None or (target != "aten.embedding.default" and named and named[0]):
            continue
        found = reader(number, list(args), shapes, views, draft)
        if (
            found is not None
            and isinstance(result, list)
            and any(name in set(_read(draft)) for name in result[1:] if name)
        ):
            continue  # somebody reads the statistics beside the answer
        yield found


def _read(draft: Draft) -> Iterator[str]:
    yield from draft.outputs[:1]
    for _, _, args, *named in draft.steps:
        yield from names_in([args, *named])


def _tensor(arg: Any) -> bool:
    return isinstance(arg, str) and arg[0] == "@"


def _linear(number: int, args: list[Any], shapes: Shapes, views: Mapping[str, str], _: Draft) -> Product | None:
    x, weight, bias = (*args, None)[:3] if len(args) < 3 else args[:3]
    return _product(number, x, weight, bias, False, shapes)


def _mm(number: int, args: list[Any], shapes: Shapes, views: Mapping[str, str], draft: Draft) -> Product | None:
    return _matrix(number, args[0], args[1], None, shapes, views)


def _addmm(number: int, args: list[Any], shapes: Shapes, views: Mapping[str, str], draft: Draft) -> Product | None:
    return _matrix(number, args[1], args[2], args[0], shapes, views) if len(args) == 3 else None


def _matrix(number: int, x: Any, weight: Any, bias: Any, shapes: Shapes, views: Mapping[str, str]) -> Product | None:
    if weight in views:
        return _product(number, x, views[weight], bias, False, shapes)
    return _product(number, x, weight, bias, True, shapes)


def _product(number: int, x: Any, weight: Any, bias: Any, turned: bool, shapes: Shapes) -> Product | None:
    if not _tensor(weight) or len(shapes[weight[1:]]) != 2 or _tensor(x) or not isinstance(x, str):
        return None
    outputs, inputs = shapes[weight[1:]][::-1] if turned else shapes[weight[1:]]
    if bias is not None and not (_tensor(bias) and shapes[bias[1:]] == (outputs,)):
        return None
    about = {"kind": "linear", "in": inputs, "out": outputs, "bias": bias is not None}
    return Product(number, about, x, _own(weight=weight, bias=bias), turned)


def _own(**parts: Any) -> dict[str, str]:
    return {part: name for part, name in parts.items() if name is not None}


def _conv(number: int, args: list[Any], shapes: Shapes, _: Mapping[str, str], draft: Draft) -> Product | None:
    target = draft.steps[number][0]
    x, weight, bias, stride, padding, dilation, *more = [*args, *[None] * 9][:9]
    if not _tensor(weight) or (bias is not None and not _tensor(bias)):
        return None
    groups = more[0]
    if target == "aten.convolution.default":
        if more[0]:  # transposed
            return None
        groups = more[2]
    rows, columns, *kernel = shapes[weight[1:]]
    if not 1 <= len(kernel) <= 3 or _names(stride, padding, dilation):
        return None
    groups, axes = groups or 1, len(kernel)
    about = {
        "kind": "conv",
        "in": columns * groups,
        "out": rows,
        "kernel": kernel,
        "stride": _each(stride, 1, axes),
        "padding": padding.removeprefix("string:") if isinstance(padding, str) else _each(padding, 0, axes),
        "dilation": _each(dilation, 1, axes),
        "groups": groups,
        "bias": bias is not None,
    }
    return Product(number, about, x, _own(weight=weight, bias=bias))


def _names(*args: Any) -> bool:
    return any(True for _ in names_in(list(args)))


def _each(value: Any, default: int, axes: int) -> list[int]:
    values = value if isinstance(value, list) else [default if value is None else value]
    return values if len(values) == axes else values * axes


def _embedding(number: int, args: list[Any], shapes: Shapes, _: Mapping[str, str], draft: Draft) -> Product | None:
    weight, x, padding = [*args, None][:3]
    if not _tensor(weight) or len(shapes[weight[1:]]) != 2 or not isinstance(x, str):
        return None
    rows, dim = shapes[weight[1:]]
    padding = padding if isinstance(padding, int) and 0 <= padding < rows else None
    return Product(number, {"kind": "embedding", "rows": rows, "dim": dim, "padding": padding}, x, _own(weight=weight))


def _batch_norm(number: int, args: list[Any], shapes: Shapes, _: Mapping[str, str], draft: Draft) -> Product | None:
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


def _layer_norm(number: int, args: list[Any], shapes: Shapes, _: Mapping[str, str], draft: Draft) -> Product | None:
    x, shape, weight, bias, eps = [*args, None, None, 1e-5][:5]
    if not _tensor(weight) or (bias is not None and not _tensor(bias)) or tuple(shape) != shapes[weight[1:]]:
        return None
    about = {"kind": "layer_norm", "shape": list(shape), "eps": eps, "bias": bias is not None}
    return Product(number, about, x, _own(weight=weight, bias=bias), first=isinstance(draft.steps[number][1], list))


def _group_norm(number: int, args: list[Any], shapes: Shapes, _: Mapping[str, str], draft: Draft) -> Product | None:
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
    "aten.convolution.default": _conv,
}


def _only_whole(draft: Draft, products: list[Product], views: Mapping[str, str]) -> list[Product]:
    """Those whose every tensor is used by such products alone, each weight the same way round."""
    while True:
        uses: dict[str, set[int]] = {}
        for number, (_, result, args, *named) in enumerate(draft.steps):
            if isinstance(result, str) and result in views:
                continue  # the transpose itself; who reads it counts
            for name in names_in([args, *named]):
                uses.setdefault(views.get(name, name), set()).add(number)
        steps = {found.step for found in products}
        ways: dict[str | None, set[bool]] = {}
        parts: dict[str, set[tuple[str, str]]] = {}
        for found in products:
            ways.setdefault(found.own.get("weight"), set()).add(found.turned)
            for part, name in found.own.items():
                parts.setdefault(name, set()).add((part, found.own.get("weight", "")))
        kept = [
            found
            for found in products
            if all(uses.get(name, set()) <= steps for name in found.own.values())
            and all(name not in draft.outputs for name in found.own.values())
            and all(part == "weight" or len(parts[name]) == 1 for part, name in found.own.items())
            and len({part for part, _ in parts[found.own["weight"]]} if "weight" in found.own else {1}) == 1
            and len(ways[found.own.get("weight")]) == 1
        ]
        if len(kept) == len(products):
            return kept
        products = kept


def _named(draft: Draft, products: list[Product], tensors: set[str], aliases: Mapping[str, list[str]]) -> Lifted:
    lifted: Lifted = Lifted()
    paths: dict[Any, str] = {}
    stored: dict[str, str] = {}  # "@name" -> its new name
    owned = {name[1:] for found in products for name in found.own.values()}
    by_step = {}
    for found in products:
        key = (tuple(sorted(found.own.items())), str(found.about))
        if key not in paths:
            path = _path(found, tensors, set(lifted.layers), _names_of(draft, found, aliases))
            paths[key] = path
            lifted.layers[path] = found.about
            for part, name in found.own.items():
                new = f"{path}.{part}"
                if name in stored:
                    lifted.ties[new] = stored[name]
                    continue
                stored[name], lifted.renamed[new] = new, name[1:]
                if part == "weight" and found.turned:
                    lifted.turned.add(new)
        by_step[found.step] = (found, paths[key])
    for number, step in enumerate(draft.steps):
        if number in by_step:
            found, path = by_step[number]
            result = step[1][0] if found.first else step[1]
            lifted.steps.append([LAYER, result, [path, found.x]])
        elif step[0] in ("aten.dropout.default", "aten.dropout_.default"):
            lifted.steps.append([DROPOUT, step[1], step[2][:2]])
        else:
            lifted.steps.append(step)
    lifted.renamed |= {name: name for name in tensors - owned}
    return lifted


def _names_of(draft: Draft, found: Product, aliases: Mapping[str, list[str]]) -> list[str]:
    """The weight's names in the file; first the one that belongs to the module in which the step was."""
    result = draft.steps[found.step][1]
    name = found.own.get("weight", found.own.get("running_mean", ""))[1:]
    own = f"{draft.paths.get(result, '') if isinstance(result, str) else ''}.weight"
    return sorted([name, *aliases.get(name, ())], key=lambda each: each != own)


def _path(found: Product, tensors: set[str], taken: set[str], names: list[str]) -> str:
    """Of the weight's name: "att.in_proj" of att.in_proj_weight. With the kind behind it where that is taken."""
    mine = {own[1:] for own in found.own.values()} | set(names)
    own = [re.sub(r"(^|[._])(weight|running_mean)$", "", name) for name in names]
    first = re.sub(r"(^|[._])weight$", "", found.own.get("weight", "")[1:])
    tries = [*own, *(f"{path}.{found.about['kind']}".lstrip(".") for path in own)]
    tries += [f"{first}_{number}" for number in range(2, 1000)]
    others = tensors - mine
    return next(
        path
        for path in tries
        if path
        and path not in others
        and not any(other.startswith(f"{path}.") for other in others)
        and not any(path == t or t.startswith(f"{path}.") or path.startswith(f"{t}.") for t in taken)
    )
