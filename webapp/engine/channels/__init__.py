"""Which channels, neurons and attention heads can be cut out of a model, and what has to be cut along with them."""

from __future__ import annotations

from functools import lru_cache

from ..architectures import architectures
from ..facts import ArchitectureSpec, CheckpointFacts
from ..widths import fit_widths
from .groups import Group, Member, cut_shapes, kept_indices
from .traced import traced_groups
from .transformers_blocks import block_groups, narrowed

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


def groups_of(facts: CheckpointFacts) -> tuple[Group, ...]:
    """Every group that can be cut, in the order of the model. Empty where none is known."""
    spec = facts.architecture
    if spec is None:
        return ()
    shapes = tuple((tensor.name, tensor.shape) for tensor in facts.tensors)
    return _found(spec.model_dump_json(), shapes)


@lru_cache(maxsize=16)
def _found(spec_json: str, shapes: Shapes) -> tuple[Group, ...]:
    spec = ArchitectureSpec.model_validate_json(spec_json)
    module = architectures()[spec.family].skeleton(spec)
    if spec.family == "transformers":
        return tuple(block_groups(module, spec))
    fit_widths(module, dict(shapes))
    return tuple(traced_groups(module, spec))


__all__ = ["Group", "Member", "cut_shapes", "groups_of", "kept_indices", "narrowed"]
