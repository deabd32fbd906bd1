"""The layers that techniques work on, found in a module, or by names and shapes where there is no module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import nn

from ..facts import ArchitectureSpec, LayerFacts, LayerKind, TensorFacts

EMBEDDING_NAME = re.compile(r"embed|wte|wpe|token", re.IGNORECASE)


def layers_of(module: nn.Module, spec: ArchitectureSpec, tied: Mapping[str, str]) -> tuple[LayerFacts, ...]:
    """Linear, Conv1d, Conv2d, Embedding, and GPT-2's Conv1D (whose weight is (in, out)), in the module's order.

    `tied` maps alias tensor to stored tensor. A tensor is one layer, that of the module it is stored under; the other
    modules that use it are its `aliases`.
    """
    del spec  # every family's layers are found alike
    found: dict[str, LayerFacts] = {}
    aliases: dict[str, list[str]] = {}
    first: dict[int, str] = {}  # a module may share a parameter without the file saying so
    for name, part in module.named_modules(remove_duplicate=False):
        kind, transposed = _kind(part)
        weight = getattr(part, "weight", None)
        if kind is None or not isinstance(weight, nn.Parameter):
            continue
        tensor = f"{name}.weight" if name else "weight"
        stored = tied.get(tensor, first.setdefault(id(weight), tensor))
        if stored != tensor:
            aliases.setdefault(stored, []).append(name)
            continue
        shape = tuple(weight.shape)
        groups = int(getattr(part, "groups", 1))
        found[tensor] = LayerFacts(
            name=name, weight=tensor, kind=kind, shape=shape, transposed=transposed, groups=groups
        )
    return tuple(
        layer.model_copy(update={"aliases": tuple(aliases.get(weight, ()))}) for weight, layer in found.items()
    )


def _kind(module: nn.Module) -> tuple[LayerKind | None, bool]:
    if isinstance(module, nn.Linear):
        return "linear", False
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return "conv", False
    if isinstance(module, nn.Embedding):
        return "embedding", False
    # By name: importing transformers takes seconds, and a plain CNN has none of its layers.
    if type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils":
        return "linear", True
    return None, False


def layers_from_tensors(
    tensors: Iterable[TensorFacts], tied: Mapping[str, str] | None = None
) -> tuple[LayerFacts, ...]:
    """What can be guessed without a module: 2-D floats are linear, or embeddings by name; 3-D and 4-D are conv."""
    found: list[LayerFacts] = []
    for tensor in tensors:
        rank = len(tensor.shape)
        if not tensor.is_float or rank not in (2, 3, 4) or not tensor.size:
            continue
        kind: LayerKind = "conv" if rank > 2 else "embedding" if EMBEDDING_NAME.search(tensor.name) else "linear"
        name = tensor.name.removesuffix(".weight")
        aliases = tuple(a.removesuffix(".weight") for a, stored in (tied or {}).items() if stored == tensor.name)
        found.append(LayerFacts(name=name, weight=tensor.name, kind=kind, shape=tensor.shape, aliases=aliases))
    return tuple(found)
