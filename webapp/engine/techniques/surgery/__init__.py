"""Which channels, neurons and attention heads can be cut out of a model, and what has to be cut along with them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from webapp.engine.architectures import architectures
from webapp.engine.architectures.resize import resize_to_weights
from webapp.engine.facts import ArchitectureSpec, CheckpointFacts

from .groups import Group, Member, cut_shapes, kept_indices
from .traced import ANSWERS, traced_groups
from .transformers_blocks import OUTSIDE, RESIDUAL, block_groups, narrowed

ENDS = (ANSWERS, OUTSIDE, RESIDUAL)  # reasons why nothing is asked of the outputs of a layer whose inputs are cut
Found = tuple[tuple[Group, ...], Mapping[str, str]]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


def groups_of(facts: CheckpointFacts) -> tuple[Group, ...]:
    """Every group that can be cut, in the order of the model. Empty where none is known."""
    return _looked_up(facts)[0]


def why_not(facts: CheckpointFacts) -> Mapping[str, str]:
    """Of weights whose outputs cannot be cut, by name: a sentence that says why, where one is known."""
    return _looked_up(facts)[1]


def _looked_up(facts: CheckpointFacts) -> Found:
    spec = facts.architecture
    if spec is None:
        return (), {}
    shapes = tuple((tensor.name, tensor.shape) for tensor in facts.tensors)
    return _found(spec.model_dump_json(), shapes)


@lru_cache(maxsize=16)
def _found(spec_json: str, shapes: Shapes) -> Found:
    spec = ArchitectureSpec.model_validate_json(spec_json)
    module = architectures()[spec.family].skeleton(spec)
    if spec.family == "transformers":
        groups, reasons = block_groups(module, spec)
    else:
        resize_to_weights(module, dict(shapes))
        groups, reasons = traced_groups(module, spec)
    return tuple(groups), reasons


__all__ = ["ENDS", "Group", "Member", "cut_shapes", "groups_of", "kept_indices", "narrowed", "why_not"]
