"""Neurons and attention heads of transformers' models, such that the config can say how many are left.

A config has one width for the MLPs of all blocks and one number of heads, so every block keeps as many. What a model
type calls its layers does not matter where shapes tell them apart; a cut is accepted only when the library, given the
new config, asks for exactly the shapes that it leaves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ..architectures import architectures
from ..calibration.walk import row_of_blocks
from ..facts import ArchitectureSpec
from .groups import Group, Member, Uncuttable

INNER = ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim", "ffn_hidden_size")
HEADS = ("num_attention_heads", "num_key_value_heads", "head_dim")
ATTENTION = re.compile("attn|attention", re.IGNORECASE)
NO_ROW = "the model is not a row of blocks of one width"
OUTSIDE = "it stands outside the blocks: its outputs are the model's answers, or as wide as the residual stream"
RESIDUAL = "its outputs are as wide as the residual stream, which the config has once for all blocks"
QUERY, KEY, VALUE, OUTPUT = ("q_proj", "k_proj", "v_proj", "o_proj")


def block_groups(module: nn.Module, spec: ArchitectureSpec) -> tuple[list[Group], dict[str, str]]:
    """For each block its MLP's neurons and, where the config can hold fewer, its heads (key-value groups).

    And of every other weight that makes outputs, why they stay.
    """
    path, config = row_of_blocks(module), _parsed(spec)
    if path is None or not isinstance(getattr(config, "hidden_size", None), int):  # stages that widen
        return [], dict.fromkeys(_weights("", module), NO_ROW)
    found: list[Group] = []
    why_not = dict.fromkeys(_weights("", module), OUTSIDE)
    for name, block in module.get_submodule(path).named_children():
        prefix = f"{path}.{name}"
        why_not |= dict.fromkeys(_weights(f"{prefix}.", block), RESIDUAL)
        for ours, seek in ((False, _neurons), (True, _heads)):
            try:
                found.append(seek(prefix, block, config))
            except Uncuttable as reason:
                names = (name for name in _weights(f"{prefix}.", block) if bool(ATTENTION.search(name)) is ours)
                why_not |= dict.fromkeys(names, str(reason))
    return found, why_not


def narrowed(spec: ArchitectureSpec, kind: str, kept: int, of: int) -> ArchitectureSpec:
    """The spec with `kept` of `of` neurons or key-value groups in every block.

    For callers to check against the shapes that are left: `fits`.
    """
    config, parsed = dict(spec.config), _parsed(spec)
    if kind == "neurons":
        config[str(_inner_key(parsed))] = kept
    else:
        queries = int(parsed.num_attention_heads) // of
        config |= {"num_attention_heads": kept * queries, "head_dim": _head_dim(parsed)}
        if getattr(parsed, "num_key_value_heads", None) is not None:
            config["num_key_value_heads"] = kept
    return spec.model_copy(update={"config": config})


def fits(spec: ArchitectureSpec, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the library's module for this spec has exactly these shapes, where it has a tensor of the name."""
    module = architectures()[spec.family].skeleton(spec)
    return all(shapes.get(name, tuple(t.shape)) == tuple(t.shape) for name, t in module.state_dict().items())


def _parsed(spec: ArchitectureSpec) -> Any:
    from ..architectures.transformers_family import parsed_config

    return parsed_config(spec.config)


def _inner_key(config: Any) -> str | None:
    return next((key for key in INNER if hasattr(config, key)), None)


def _weights(prefix: str, module: nn.Module) -> list[str]:
    """What makes outputs in it: linear layers and convolutions."""
    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d
    return [
        f"{prefix}{name}.weight" for name, part in module.named_modules() if _sizes(part) or isinstance(part, kinds)
    ]


def _neurons(prefix: str, block: nn.Module, config: Any) -> Group:
    """The layers that widen the residual stream to the MLP's width, and the one that narrows it again."""
    hidden, key = int(config.hidden_size), _inner_key(config)
    if key is None:
        raise Uncuttable("the config has no width of the MLP that could be made smaller")
    inner = int(getattr(config, key) or 4 * hidden)
    if inner == hidden:
        raise Uncuttable(f"its MLP is as wide as the residual stream ({hidden}), so shapes do not tell them apart")
    outside = (name for name, _ in block.named_modules() if not ATTENTION.search(name.partition(".")[0]))
    wide = {name: sizes for name in outside if (sizes := _sizes(block.get_submodule(name))) and inner in sizes}
    makers = [name for name, sizes in wide.items() if sizes == (hidden, inner)]
    readers = [name for name, sizes in wide.items() if sizes == (inner, hidden)]
    if not makers or len(readers) != 1 or len(makers) + 1 != len(wide):
        raise Uncuttable(f"its MLP is not of layers from {hidden} to {inner} and one from {inner} back to {hidden}")
    members = [m for name in makers for m in _rows(block, prefix, name)]
    members.append(_columns(block, prefix, readers[0]))
    return Group(f"{prefix} MLP", "neurons", inner, tuple(members))


def _heads(prefix: str, block: nn.Module, config: Any) -> Group:
    """Key-value groups with their query heads, where the model type takes `head_dim` from its config."""
    parts = {name.rpartition(".")[2]: name for name, part in block.named_modules() if _sizes(part)}
    if not all(name in parts for name in (QUERY, KEY, VALUE, OUTPUT)):
        raise Uncuttable("its queries, keys and values are not layers of their own")
    if "head_dim" not in config.to_dict():
        raise Uncuttable("the config has no head_dim, so it cannot say that there are fewer heads of the same size")
    size, width = _head_dim(config), int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    queries = size * int(config.num_attention_heads) // width
    members = [
        *_rows(block, prefix, parts[QUERY], queries),
        *_rows(block, prefix, parts[KEY], size),
        *_rows(block, prefix, parts[VALUE], size),
        _columns(block, prefix, parts[OUTPUT], queries),
    ]
    return Group(f"{prefix} attention", "heads", width, tuple(members))


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _sizes(part: nn.Module) -> tuple[int, int] | None:
    """(inputs, outputs) of a linear layer or GPT-2's Conv1D."""
    if isinstance(part, nn.Linear):
        return part.in_features, part.out_features
    if type(part).__name__ == "Conv1D" and isinstance(weight := getattr(part, "weight", None), nn.Parameter):
        return weight.shape[0], weight.shape[1]
    return None


def _rows(block: nn.Module, prefix: str, name: str, repeat: int = 1) -> Iterator[Member]:
    part = block.get_submodule(name)
    yield Member(f"{prefix}.{name}.weight", 0 if isinstance(part, nn.Linear) else 1, "makes", repeat)
    if part.bias is not None:
        yield Member(f"{prefix}.{name}.bias", 0, "scales", repeat)


def _columns(block: nn.Module, prefix: str, name: str, repeat: int = 1) -> Member:
    linear = isinstance(block.get_submodule(name), nn.Linear)
    return Member(f"{prefix}.{name}.weight", 1 if linear else 0, "reads", repeat)
