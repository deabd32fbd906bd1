"""Finds the layers in a program: a product with a weight becomes a module of torch.nn under the weight's name.

A weight is lifted where everything that is done with it is such a product, so that the module may be replaced by
another. `x @ w` multiplies with w (in, out): its weight is stored transposed, as nn.Linear has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from webapp.engine.architectures.program.module import DROPOUT, LAYER, names_in

from .products import READERS, Product, Shapes
from .serialized import ProgramDraft

TURNS = ("aten.t.default", "aten.permute.default", "aten.transpose.int", "aten.numpy_T.default")


@dataclass
class Lifted:
    """`renamed` maps the new names of tensors to those in the file; `transposed` the new names to transpose."""

    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: list[list[Any]] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    transposed: set[str] = field(default_factory=set)
    ties: dict[str, str] = field(default_factory=dict)


def lift(draft: ProgramDraft, shapes: Shapes, aliases: Mapping[str, list[str]]) -> Lifted:
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


def _products(draft: ProgramDraft, shapes: Shapes, views: Mapping[str, str]) -> Iterator[Product | None]:
    for number, (target, result, args, *named) in enumerate(draft.steps):
        reader = READERS.get(target)
        if reader is None or (target != "aten.embedding.default" and named and named[0]):
            continue
        found = reader(number, list(args), shapes, views, draft)
        if found is not None and isinstance(found.x, str) and found.x[0] == "@":
            continue  # it multiplies one tensor of the program with another
        if (
            found is not None
            and isinstance(result, list)
            and any(name in set(_read(draft)) for name in result[1:] if name)
        ):
            continue  # somebody reads the statistics beside the answer
        yield found


def _read(draft: ProgramDraft) -> Iterator[str]:
    yield from draft.outputs
    for _, _, args, *named in draft.steps:
        yield from names_in([args, *named])


def _only_whole(draft: ProgramDraft, products: list[Product], views: Mapping[str, str]) -> list[Product]:
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
            ways.setdefault(found.own.get("weight"), set()).add(found.transposed)
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


def _named(draft: ProgramDraft, products: list[Product], tensors: set[str], aliases: Mapping[str, list[str]]) -> Lifted:
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
                if part == "weight" and found.transposed:
                    lifted.transposed.add(new)
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


def _names_of(draft: ProgramDraft, found: Product, aliases: Mapping[str, list[str]]) -> list[str]:
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
