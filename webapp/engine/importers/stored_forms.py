"""A file that Pare made comes back: its weights stay in the forms that they are stored in, each looked at once.

Its metadata comes from outside like the rest of the file: a form is read only where its parts are those that it has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from pydantic import ValidationError

from webapp.engine.architectures import architectures
from webapp.engine.architectures.base import Architecture
from webapp.engine.architectures.comparing import ImageClassifier
from webapp.engine.errors import CheckpointRefused
from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math.values import all_finite
from webapp.engine.weights import StoragePlan
from webapp.engine.weights.held import FiledWeight
from webapp.engine.weights.manifest import FORMAT, MANIFEST, filed_weights, manifest_in, stored_activations
from webapp.engine.weights.memory import is_want_of_memory
from webapp.engine.weights.safetensors import LazyTensor, dtype_name, dtype_of

from .base import Opened

VALUES_PER_BYTE = 8  # at most, in any form: a bitmask has a bit for each
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, AssertionError)


def take_stored(opened: Opened, metadata: Mapping[str, str], filename: str) -> None:
    """Of a safetensors file whose tensors are in `opened`: what its metadata says that Pare wrote of them.

    Raises CheckpointRefused for metadata that does not fit the file.
    """
    content = manifest_in(metadata, filename)
    if content is None:
        return
    try:
        stored, rest = filed_weights(content, opened.tensors, filename)
        activations = stored_activations(content)
        tied = {str(alias): str(name) for alias, name in dict(content.get("tied") or {}).items()}
    except (*MALFORMED, ValidationError) as error:
        raise CheckpointRefused(f"{filename} has metadata of Pare that cannot be read: {error}") from None
    known = {*rest, *stored}
    for name in stored:
        if name in rest:
            raise CheckpointRefused(f"{filename} holds {name} twice: as a tensor, and in parts")
    for alias, name in tied.items():
        if alias in known or name not in known:
            raise CheckpointRefused(f"{filename} ties {alias} to {name}, which are not two names of one tensor in it")
    opened.tensors, opened.tied = rest, {**opened.tied, **tied}
    opened.stored |= stored
    opened.metadata[MANIFEST] = metadata[MANIFEST]
    opened.activations = {path: plan.model_dump(exclude_none=True) for path, plan in activations.items()}
    told = content.get("architecture")
    opened.architecture = told if isinstance(told, dict) else None
    if stored:
        kinds = sorted({str(each.meta.get("kind")) for each in stored.values()})
        opened.notes.append(
            f"It was made by Pare: {len(stored):,} of its weights stay as they are stored ({', '.join(kinds)}), and "
            "every figure compares with that, not with the checkpoint it was made from."
        )


@contextmanager
def shown_whole(opened: Opened, filename: str) -> Iterator[None]:
    """Within it weights in stored forms are tensors like the others, to be renamed and dropped; afterwards as before.

    Raises CheckpointRefused where one of them was made anew of its values.
    """
    stands_for = {}
    for name, weight in opened.stored.items():
        shape, dtype = tuple(weight.meta["shape"]), dtype_of(weight.meta["dtype"])
        opened.tensors[name] = LazyTensor(shape, dtype, partial(_values, weight, dtype))
        stands_for[id(opened.tensors[name])] = weight
    shown = {name: opened.tensors[name] for name in opened.stored}
    yield
    opened.stored = {name: stands_for[id(each)] for name, each in opened.tensors.items() if id(each) in stands_for}
    opened.tensors = {name: each for name, each in opened.tensors.items() if name not in opened.stored}
    if shown and not opened.stored:
        raise CheckpointRefused(
            f"{filename} is quantized, and its tensors have the names of an older version, which only floats are "
            "converted from; ask for its weights to be dequantized (the box in the form, ?dequantize=1, --dequantize)"
        )


def _values(weight: FiledWeight, dtype: torch.dtype) -> Tensor:
    return weight.load().decode().to(dtype)


def manifest_of(
    plans: Mapping[str, StoragePlan], tied: Mapping[str, str], activations: Mapping[str, Mapping[str, Any]]
) -> str:
    """What the metadata of the file says where somebody else's says nothing."""
    content: dict[str, Any] = {"format": FORMAT, "weights": {name: plan.meta for name, plan in plans.items()}}
    content |= {"tied": dict(tied), **({"activations": dict(activations)} if activations else {})}
    return json.dumps(content, separators=(",", ":"), sort_keys=True)


def checked_plan(name: str, weight: FiledWeight, filename: str) -> StoragePlan:
    """How it is stored, once its values were looked at. Raises CheckpointRefused."""
    held = sum(part.bytes for part in weight.parts.values())
    if too_large(weight.meta, VALUES_PER_BYTE * held):
        raise CheckpointRefused(f"{name} in {filename} claims more values than its {held:,} bytes can hold")
    try:
        encoded = weight.load()
        plan = encoded.plan
        expected = {part.name: (part.shape, part.dtype) for part in plan.parts}
        found = {suffix: (part.shape, dtype_name(part.dtype)) for suffix, part in weight.parts.items()}
        finite = expected == found and all(all_finite(some) for leaf in encoded.leaves for some in leaf.slices())
    except MALFORMED as error:
        if is_want_of_memory(error):
            raise
        raise CheckpointRefused(f"{name} in {filename} is damaged: {error}") from None
    if expected != found:
        raise CheckpointRefused(f"{name} in {filename} is damaged: its parts are not those of {plan.label}")
    if not finite:
        raise CheckpointRefused(f"{name} in {filename} holds values that are not finite: the file is broken")
    return plan


def too_large(meta: Any, most: int) -> bool:
    """Whether a weight, or one of its factors, has a shape of more values than that. Such is not even loaded."""
    if not isinstance(meta, Mapping):
        return False
    inner = [each for each in meta.values() if isinstance(each, Mapping)]
    if inner:
        return any(too_large(each, most) for each in inner)
    shape = meta.get("shape")
    whole = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    return not whole or math.prod(shape or ()) > most


def check_activations(activations: Mapping[str, Any], layers: Sequence[LayerFacts], filename: str) -> None:
    """Raises CheckpointRefused where the inputs of what is no layer, and no factor of one, become integers."""
    known = {name for layer in layers for name in (layer.name, layer.weight.removesuffix(".weight"), *layer.aliases)}
    for path in activations:
        if path not in known and path.rpartition(".")[0] not in known:
            raise CheckpointRefused(
                f"{filename} has metadata of Pare for the inputs of {path[:80]!r}, which is no layer"
            )


def recognisable(told: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config by which a family recognises the architecture that a manifest tells; None: the tensors tell it.

    What was a guess when the file was made is one again.
    """
    config = told.get("config")
    if not isinstance(config, dict):
        return None
    match told.get("family"):
        case "transformers":
            return config
        case "program":
            kept = {name: told.get(name) for name in ("family", "title", "task", "inputs", "outputs")}
            return {"pare_architecture": {**kept, "program": config.get("program"), "classes": config.get("classes")}}
        case "sequential" | "cnn" if not config.get("assumed"):
            inputs = told.get("inputs")
            given = inputs.get("shape") if isinstance(inputs, dict) else None
            steps = config.get("steps")
            return {"pare_architecture": {"family": told["family"], "steps": steps, "input": given}}
        case family if issubclass(architectures().get(str(family), Architecture), ImageClassifier):
            return {"pare_architecture": {"family": family, "title": told.get("title"), "config": config}}
    return None


def in_file_order(
    tensors: Mapping[str, LazyTensor], stored: Mapping[str, FiledWeight], plans: Mapping[str, StoragePlan]
) -> dict[str, LazyTensor]:
    """What the file holds, by name, in the order in which Pare writes it; of weights in stored forms the parts."""
    found: dict[str, LazyTensor] = {}
    for name in sorted([*tensors, *stored]) if stored else tensors:
        if name in stored:
            found |= {name + part.name: stored[name].parts[part.name] for part in plans[name].parts}
        else:
            found[name] = tensors[name]
    return found
