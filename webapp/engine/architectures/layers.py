"""The layers that techniques work on, found in a module, or by names and shapes where there is no module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from webapp.engine.architectures.program.module import ProgramModule
from webapp.engine.facts import PLAIN, ArchitectureSpec, LayerFacts, LayerKind, Layout, TensorFacts
from webapp.engine.lazy import nn

TABLE_NAME = re.compile(  # looked up or added, never multiplied: tables of words and places, tokens that are learnt
    r"embed|wte|wpe|token|(^|[._])(pos|positions?|positional|rel_pos)([._]|$)|relative_(position|attention)_bias|"
    r"bias_table|class_emb|segment_emb",
    re.IGNORECASE,
)
EXPERTS_NAME = re.compile(r"expert|(^|[._])moe[._]", re.IGNORECASE)
RECURRENT_NAME = re.compile(r"weight_(ih|hh|hr)(_l\d+)?(_reverse)?$")  # as torch calls them
TURNED_NAME = re.compile(r"deconv|conv_?transpose|transposed?_?conv|up_?conv|upsampl", re.IGNORECASE)
INPUTS_FIRST = ("Llama4TextExperts",)  # of transformers, which says so of others itself


def layers_of(module: nn.Module, spec: ArchitectureSpec, tied: Mapping[str, str]) -> tuple[LayerFacts, ...]:
    """Whatever multiplies, and embeddings, in the module's order: Linear, convolutions of one to three axes,
    transposed ones, GPT-2's Conv1D (whose weight is (in, out)), recurrent matrices and stacks of experts.

    `tied` maps alias tensor to stored tensor. A tensor is one layer, that of the module it is stored under; the other
    modules that use it are its `aliases`.
    """
    del spec  # every family's layers are found alike
    found: dict[str, LayerFacts] = {}
    aliases: dict[str, list[str]] = {}
    first: dict[int, str] = {}  # a module may share a parameter without the file saying so
    for path, part in module.named_modules(remove_duplicate=False):
        for own, kind, layout in _matrices(part):
            weight = part.get_parameter(own)
            tensor = f"{path}.{own}" if path else own
            name = path if own == "weight" else tensor
            stored = tied.get(tensor, first.setdefault(id(weight), tensor))
            if stored != tensor:
                aliases.setdefault(stored, []).append(name)
                continue
            about: dict[str, Any] = {
                "transposed": layout.transposed,
                "groups": layout.groups,
                "stacked": layout.stacked,
            }
            found[tensor] = LayerFacts(name=name, weight=tensor, kind=kind, shape=tuple(weight.shape), **about)
    return tuple(
        layer.model_copy(update={"aliases": tuple(aliases.get(weight, ()))}) for weight, layer in found.items()
    )


def _matrices(part: nn.Module) -> Iterator[tuple[str, LayerKind, Layout]]:
    """Name, kind and layout of each of the module's own parameters that multiplies or is looked up."""
    kind, layout = _kind(part)
    if kind is not None and isinstance(getattr(part, "weight", None), nn.Parameter):
        yield "weight", kind, layout
    elif isinstance(part, nn.RNNBase):
        yield from ((name, "recurrent", PLAIN) for name, _ in part.named_parameters() if RECURRENT_NAME.search(name))
    elif isinstance(part, ProgramModule):
        yield from ((name, kind, layout) for name, (kind, layout) in part.matrices.items())
    elif hasattr(part, "num_experts") or "Experts" in type(part).__name__:
        transposed = bool(getattr(part, "is_transposed", type(part).__name__ in INPUTS_FIRST))
        for name, weight in part.named_parameters(recurse=False):
            if weight.dim() == 3 and weight.shape[0] > 1:
                yield name, "experts", Layout(transposed, weight.shape[0], stacked=True)


def _kind(module: nn.Module) -> tuple[LayerKind | None, Layout]:
    if isinstance(module, nn.Linear):
        return "linear", PLAIN
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "conv", Layout(groups=module.groups)
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return "conv", Layout(True, module.groups)
    if isinstance(module, nn.Embedding):
        return "embedding", PLAIN
    # By name: importing transformers takes seconds, and a plain CNN has none of its layers.
    if type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils":
        return "linear", Layout(True)
    return None, PLAIN


def layers_from_tensors(
    tensors: Iterable[TensorFacts], tied: Mapping[str, str] | None = None
) -> tuple[LayerFacts, ...]:
    """What can be guessed without a module: 2-D floats are linear, or embeddings by name; 3-D to 5-D are conv, or
    stacks of experts by name. Tables of places are none of these, nor what stacks single rows (1, 1, n)."""
    known = {tensor.name: tensor for tensor in tensors}
    others: dict[str, list[str]] = {}
    for alias, stored in (tied or {}).items():
        others.setdefault(stored, []).append(alias.removesuffix(".weight"))
    found: list[LayerFacts] = []
    for tensor in known.values():
        rank = len(tensor.shape)
        if not tensor.is_float or not 2 <= rank <= 5 or not tensor.size:
            continue
        table, layout = bool(TABLE_NAME.search(tensor.name)), PLAIN
        kind: LayerKind = "conv" if rank > 2 else "embedding" if table else "linear"
        if rank > 2 and ((table and not tensor.name.endswith(".weight")) or set(tensor.shape[:-1]) == {1}):
            continue
        if rank == 2 and RECURRENT_NAME.search(tensor.name):
            kind = "recurrent"
        elif rank == 3 and EXPERTS_NAME.search(tensor.name):
            kind, layout = "experts", Layout(groups=tensor.shape[0], stacked=True)
        elif kind == "conv":
            layout = _transposed(tensor, known)
        name = tensor.name.removesuffix(".weight")
        aliases = tuple(others.get(tensor.name, ()))
        about: dict[str, Any] = {"transposed": layout.transposed, "groups": layout.groups, "stacked": layout.stacked}
        found.append(LayerFacts(name=name, weight=tensor.name, kind=kind, shape=tensor.shape, aliases=aliases, **about))
    return tuple(found)


def _transposed(tensor: TensorFacts, known: Mapping[str, TensorFacts]) -> Layout:
    """Of a kernel whose bias has a value for each of its second axis, times its groups, that is the outputs'."""
    bias = known.get(f"{tensor.name.removesuffix('.weight')}.bias") if tensor.name.endswith(".weight") else None
    first, second = tensor.shape[:2]
    if bias is None or len(bias.shape) != 1:
        return Layout(bool(TURNED_NAME.search(tensor.name)))
    if bias.size == first and (bias.size != second or not TURNED_NAME.search(tensor.name)):
        return PLAIN
    groups = bias.size // second
    return Layout(True, groups) if groups and bias.size == groups * second and not first % groups else PLAIN
