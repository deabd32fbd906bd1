"""What the metadata of Pare's file says of its weights: which of its tensors are parts of one, and in which form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from webapp.engine.errors import CheckpointRefused

from .activations import Activations
from .held import FiledWeight
from .safetensors import LazyTensor

FORMAT = 1
MANIFEST = "pare"  # the key of the metadata


def manifest_in(metadata: Mapping[str, str], filename: str) -> dict[str, Any] | None:
    """What Pare's own metadata says; None where it has none. Raises CheckpointRefused for that of another version."""
    try:
        content: dict[str, Any] = json.loads(metadata[MANIFEST])
    except (KeyError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("weights"), dict):
        return None
    if content.get("format") != FORMAT:
        raise CheckpointRefused(f"{filename} has format {content.get('format')} of Pare; this version reads {FORMAT}.")
    return content


def filed_weights(
    content: Mapping[str, Any], tensors: Mapping[str, LazyTensor], filename: str
) -> tuple[dict[str, FiledWeight], dict[str, LazyTensor]]:
    """The weights that are stored in parts, and the tensors that are no part. Raises CheckpointRefused."""
    from . import form_of

    rest, found = dict(tensors), dict[str, FiledWeight]()
    for name, meta in content["weights"].items():
        place = f"{name} in {filename}"
        try:
            suffixes = form_of(meta["kind"]).suffixes(meta)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise CheckpointRefused(f"{place} is damaged: {error}. Download the file again.") from None
        owned = {suffix: rest.pop(name + suffix) for suffix in suffixes if name + suffix in rest}
        found[name] = FiledWeight(owned, meta, place)
    return found, rest


def stored_activations(content: Mapping[str, Any]) -> dict[str, Activations]:
    """By module. Raises ValueError."""
    return {path: Activations.model_validate(plan) for path, plan in content.get("activations", {}).items()}
