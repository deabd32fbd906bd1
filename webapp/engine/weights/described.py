"""Plans as plain data, for the facts of a checkpoint that came in stored forms; and how a checkpoint holds a tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from webapp.engine.facts import Layout, StoredFacts, TensorFacts

from .base import StoragePlan
from .dense import DensePlan
from .ggml import GgmlPlan


def stored_plan(tensor: TensorFacts, shape: tuple[int, ...] | None = None) -> StoragePlan:
    """How a checkpoint holds a tensor; of another `shape` how it would."""
    if shape is not None and shape != tensor.shape:
        return DensePlan(shape, tensor.dtype)
    if tensor.stored is not None:
        return plan_of(tensor.stored.plan)
    if tensor.block_type is None:
        return DensePlan(tensor.shape, tensor.dtype, zeros=tensor.zeros)
    return GgmlPlan(tensor.shape, tensor.dtype, tensor.block_type, tensor.shape[0], zeros=tensor.zeros)


def stored_facts(plan: StoragePlan) -> StoredFacts:
    size, values = plan.bytes, plan.params
    return StoredFacts(plan=described(plan), label=plan.label, bytes=size, params=values, factored=bool(plan.factors))


def described(plan: StoragePlan) -> dict[str, Any]:
    """The plan as JSON has it; `plan_of` is the inverse."""
    told = {field.name: getattr(plan, field.name) for field in fields(plan)}
    return {"plan": type(plan).__name__, **{name: _plain(value) for name, value in told.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, StoragePlan):
        return described(value)
    if isinstance(value, Layout):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def plan_of(told: Mapping[str, Any]) -> StoragePlan:
    """Raises KeyError for a form that an earlier version knew."""
    given: dict[str, Any] = {name: value for name, value in told.items() if name != "plan"}
    given["shape"] = tuple(given["shape"])
    if "layout" in given:
        given["layout"] = Layout(**given["layout"])
    if "each" in given:
        given["each"] = tuple(map(plan_of, given["each"]))
    return _plans()[told["plan"]](**given)


@cache
def _plans() -> dict[str, type[StoragePlan]]:
    from . import forms

    forms()  # those of installed packages too

    def below(kind: type[StoragePlan]) -> Iterator[type[StoragePlan]]:
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    return {kind.__name__: kind for kind in below(StoragePlan)}  # type: ignore[type-abstract]
