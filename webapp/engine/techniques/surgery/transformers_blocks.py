"""Neurons and attention heads of transformers' models, such that the config can say how many are left.

A config has one width for the MLPs of all blocks and one number of heads, so every block keeps as many. What a model
type calls its layers does not matter where shapes tell them apart; a cut is accepted only when the library, given the
new config, asks for exactly the shapes that it leaves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from webapp.engine.architectures import architectures
from webapp.engine.architectures.rows import row_of_blocks
from webapp.engine.architectures.transformers_family import invalid_value, parsed_config
from webapp.engine.facts import STAGES, ArchitectureSpec, BlockRow, Group, Member, Structure
from webapp.engine.lazy import nn

from .groups import Uncuttable, by_reason, cut_shapes
from .traced import ANSWERS

INNER = (  # of MLPs and of experts
    "shared_expert_intermediate_size",
    "moe_intermediate_size",
    "intermediate_size",
    "n_inner",
    "ffn_dim",
    "hidden_dim",
    "ffn_hidden_size",
)
COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
CUT = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", STAGES)
NO_LIST = re.compile("^architectures$|token_id$|only|ind(ex|ic)es$|idxs$")  # however many entries, not the blocks'
BLOCKS_LIST = re.compile("layer|block|pattern")  # of other lists as many entries may be by chance
GROUPED = 8  # torch's product of all experts at once takes rows of a multiple of 16 bytes
ATTENTION = re.compile("attn|attention", re.IGNORECASE)
NO_ROW = "the model is not a row of blocks of one width"
OUTSIDE = "it stands outside the blocks: its outputs are the model's answers, or as wide as the residual stream"
RESIDUAL = "its outputs are as wide as the residual stream, which the config has once for all blocks"
NO_MLP = "its MLP is not of layers from the residual stream to a width that the config has a key for, and one back"
QUERY, KEY, VALUE, OUTPUT, TOGETHER = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj")
FUSED = ("gate_up_proj", "Wi")
IN_STAGES = ("convnext", "convnextv2")  # model types


def stage_groups(module: nn.Module, config: Any) -> Iterator[Group]:
    """For each stage its channels, then the neurons of each of its blocks: of models that widen, such as ConvNeXt.

    The config lists a width for each stage and no other: the neurons of a stage's MLPs are four times its channels, and
    a cut takes of both. A stage's channels run through everything in it, and into the first layer of the next.
    """
    path = next(name for name, _ in module.named_modules() if name.endswith("encoder.stages"))
    widths = [int(width) for width in getattr(config, STAGES)]
    members: list[list[Member]] = [[] for _ in widths]
    inner: list[Group] = []
    at = 0  # the stage whose channels run here
    for name, part in module.named_modules():
        if any(True for _ in part.children()):
            scales = part.named_parameters(recurse=False)  # of a block's answer
            members[_stage(name, path, at)] += [Member(f"{name}.{p}", 0, "scales") for p, _ in scales]
            continue
        place = _stage(name, path, at)
        width = widths[place]
        if type(part).__name__.endswith("GRN"):
            continue  # with its block's neurons
        if getattr(part, "weight", None) is None:
            continue
        if isinstance(part, nn.Linear) and name.startswith(f"{path}."):
            if part.in_features == width:
                members[place].append(Member(f"{name}.weight", 1, "reads"))
                inner.append(_inner(module, name, place, part.out_features // width))
            else:
                members[place] += _makes(part, name)
        elif isinstance(part, nn.Linear):  # the head
            members[place].append(Member(f"{name}.weight", 1, "reads"))
        elif isinstance(part, nn.Conv2d) and part.groups == part.in_channels == part.out_channels:
            members[place] += [Member(f"{name}.{p}", 0, "scales") for p, _ in part.named_parameters()]
        elif isinstance(part, nn.Conv2d):
            if name.startswith(f"{path}."):  # from the stage before
                members[place - 1].append(Member(f"{name}.weight", 1, "reads"))
            members[place] += _makes(part, name)
        else:  # a norm; the one before a stage's first convolution is the stage before's
            members[place - (".downsampling_layer." in name)] += [
                Member(f"{name}.{p}", 0, "scales") for p, _ in part.named_parameters()
            ]
        at = place
    for place, own in enumerate(members):
        yield Group("channels", widths[place], tuple(own), f"{STAGES}.{place}")
    yield from inner


def _stage(name: str, path: str, at: int) -> int:
    """The stage that a part is in; outside of them the one that came before it."""
    return int(name.removeprefix(f"{path}.").partition(".")[0]) if name.startswith(f"{path}.") else at


def _makes(part: nn.Linear | nn.Conv2d, name: str) -> Iterator[Member]:
    yield Member(f"{name}.weight", 0, "makes")
    if part.bias is not None:
        yield Member(f"{name}.bias", 0, "scales")


def _inner(module: nn.Module, name: str, place: int, times: int) -> Group:
    """The neurons of a block: the layer of this name makes them, the next linear layer beside it reads them."""
    block, _, own = name.rpartition(".")
    beside = dict(module.get_submodule(block).named_children())
    made = beside[own]
    assert isinstance(made, nn.Linear)
    members = [*_makes(made, name)]
    for other, part in beside.items():
        if isinstance(part, nn.Linear) and part.in_features == made.out_features:
            members.append(Member(f"{block}.{other}.weight", 1, "reads"))
        elif type(part).__name__.endswith("GRN"):
            members += [Member(f"{block}.{other}.{p}", 3, "scales") for p, _ in part.named_parameters()]
    return Group("neurons", made.out_features, tuple(members), f"{STAGES}.{place}", times)


def block_structure(module: nn.Module, spec: ArchitectureSpec) -> Structure:
    """For each block the neurons of its MLPs and, where the config can hold fewer, its heads (key-value groups).

    Of every other weight that makes outputs, why they stay; and the row of blocks.
    """
    config = parsed_config(spec.config)
    values = _values(config)
    if config.model_type in IN_STAGES:
        groups, stays = list(stage_groups(module, config)), dict.fromkeys(_weights("", module), ANSWERS)
        return _holdable(groups, stays, module, spec, values, None)
    path = row_of_blocks(module)
    if path is None or not isinstance(values.get("hidden_size"), int):
        return _holdable([], dict.fromkeys(_weights("", module), NO_ROW), module, spec, values, None)
    found: list[Group] = []
    stays = dict.fromkeys(_weights("", module), OUTSIDE)
    for name, block in module.get_submodule(path).named_children():
        prefix = f"{path}.{name}"
        stays |= dict.fromkeys(_weights(f"{prefix}.", block), RESIDUAL)
        for ours, seek in ((False, _neurons), (True, _heads)):
            try:
                found += seek(prefix, block, config)
            except Uncuttable as reason:
                names = (name for name in _weights(f"{prefix}.", block) if bool(ATTENTION.search(name)) is ours)
                stays |= dict.fromkeys(names, str(reason))
    return _holdable(found, stays, module, spec, values, _row(path, module, spec, config))


def _holdable(
    groups: list[Group],
    stays: dict[str, str],
    module: nn.Module,
    spec: ArchitectureSpec,
    values: Mapping[str, Any],
    blocks: BlockRow | None,
) -> Structure:
    """With those groups that the library has a module for when each is one channel narrower, by the config's key.

    Of heads, which some configs take only where they divide the hidden size, with the numbers that may stay.
    """
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    for key in {group.key: None for group in groups}:
        own = [group for group in groups if group.key == key]
        least = min(own, key=lambda group: group.times)
        most = least.width // least.times - 1
        if least.kind == "heads":
            counts = tuple(n for n in range(1, least.width) if _taken(narrowed(spec, values, least, n)))
            groups = [replace(group, counts=counts) if group.key == key else group for group in groups]
            most = max(counts, default=0)
        if most == 0:
            continue  # nothing can leave in any case
        kept = {group: most * group.times for group in own}
        if not fits(narrowed(spec, values, least, kept[least]), shapes | cut_shapes(shapes, kept.items())):
            groups = [group for group in groups if group.key != key]
            why = f"the library's module for this config has other shapes when its {key} is smaller"
            stays |= {weight: why for group in own for weight in group.makers}
    experts = {group.key for group in groups if group.stacked}  # as wide as what the config has the same key for
    groups = [replace(group, multiple=GROUPED) if group.key in experts else group for group in groups]
    return Structure(groups=tuple(groups), stays=by_reason(stays), blocks=blocks, config=dict(values))


def _values(config: Any) -> dict[str, Any]:
    """What a cut changes in the config, or goes by; the library's own defaults filled in."""
    found = {name: value for name in CUT if (value := getattr(config, name, None)) is not None}
    if isinstance(heads := found.get("num_attention_heads"), int) and isinstance(found.get("hidden_size"), int):
        found.setdefault("head_dim", found["hidden_size"] // heads)
    return {name: [*value] if isinstance(value, tuple) else value for name, value in found.items()}


def _row(path: str, module: nn.Module, spec: ArchitectureSpec, config: Any) -> BlockRow | None:
    """None where no key of the config says how many blocks there are, or it cannot say any model with fewer."""
    count = len(list(module.get_submodule(path).children()))
    key = next((key for key in COUNTS if getattr(config, key, None) == count), None)
    if key is None:
        return None
    told = {**config.to_dict(), **spec.config}.items()
    lists = {name: value for name, value in told if isinstance(value, list) and len(value) == count}
    lists = {name: lists[name] for name in lists if not NO_LIST.search(name)}
    for own in ({name: lists[name] for name in lists if BLOCKS_LIST.search(name)}, lists):
        row = BlockRow(path, count, key, own)
        fixed = tuple(_fixed(row, module, spec))
        if len(fixed) < count:
            return replace(row, fixed=fixed)
    return None


def _fixed(row: BlockRow, module: nn.Module, spec: ArchitectureSpec) -> Iterator[int]:
    """The blocks without which the library's module has other tensors than are left.

    One of a kind stands for those beside it.
    """
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    own: list[dict[str, tuple[int, ...]]] = [{} for _ in range(row.count)]
    for name, shape in shapes.items():
        if (number := row.of(name)) is not None:
            own[number][name.removeprefix(f"{row.path}.{number}.")] = shape
    stays = False
    for number, tensors in enumerate(own):
        if number == 0 or tensors != own[number - 1]:
            left = {moved: shape for name, shape in shapes.items() if (moved := row.moved(name, [number]))}
            stays = _shapes_of(described(spec, row.without([number]))) != left
        if stays:
            yield number


def described(spec: ArchitectureSpec, row: BlockRow) -> ArchitectureSpec:
    """The spec whose config has the blocks of this row."""
    return spec.model_copy(update={"config": {**spec.config, **row.lists, row.key: row.count}})


def narrowed(spec: ArchitectureSpec, values: Mapping[str, Any], group: Group, kept: int) -> ArchitectureSpec:
    """The spec with `kept` of a group's channels, and of all groups' that have its key; `values` as in a Structure.

    For callers to check against the shapes that are left: `fits`.
    """
    config, values = dict(spec.config), values_now(values, spec)
    key, _, stage = group.key.partition(".")
    if stage:
        config[key] = [*values[key]]
        config[key][int(stage)] = kept // group.times
    elif group.kind == "neurons":
        config[key] = kept
    else:
        queries = int(values["num_attention_heads"]) // group.width
        config |= {"num_attention_heads": kept * queries, "head_dim": values["head_dim"]}
        if "num_key_value_heads" in values:
            config["num_key_value_heads"] = kept
    return spec.model_copy(update={"config": config})


def values_now(values: Mapping[str, Any], spec: ArchitectureSpec) -> dict[str, Any]:
    """The values of a structure as the spec of a later model has them."""
    return {name: value if (own := spec.config.get(name)) is None else own for name, value in values.items()}


def fits(spec: ArchitectureSpec, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether all tensors of the library's module for this spec are among these, in these shapes."""
    wanted = _shapes_of(spec)
    return wanted is not None and all(shapes.get(name) == shape for name, shape in wanted.items())


def _shapes_of(spec: ArchitectureSpec) -> dict[str, tuple[int, ...]] | None:
    """Of all tensors of the library's module; None where it takes no such config."""
    try:
        module = architectures()[spec.family].skeleton(spec)
    except invalid_value():
        return None
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _taken(spec: ArchitectureSpec) -> bool:
    """Whether the library takes such a config."""
    try:
        parsed_config(spec.config)
    except invalid_value():
        return False
    return True


def _weights(prefix: str, module: nn.Module) -> list[str]:
    """What makes outputs in it: linear layers, convolutions and stacks of experts."""
    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d
    found = [
        f"{prefix}{name}.weight" for name, part in module.named_modules() if _sizes(part) or isinstance(part, kinds)
    ]
    return found + [f"{prefix}{name}" for name, weight in module.named_parameters() if weight.dim() == 3]


def _neurons(prefix: str, block: nn.Module, config: Any) -> list[Group]:
    """What widens the residual stream to a width that the config has a key for, and the one layer that narrows it."""
    hidden = int(config.hidden_size)
    outside = (name for name, _ in block.named_modules() if not ATTENTION.search(name.partition(".")[0]))
    linear = {name: sizes for name in outside if (sizes := _sizes(block.get_submodule(name)))}
    stacks = [name for name, part in block.named_modules() if _stacked(part)]
    found: dict[str, Group] = {}
    taken: set[str] = set()
    for key in (key for key in INNER if hasattr(config, key)):
        inner = int(getattr(config, key) or 4 * hidden)
        makers = {name: (0,) for name, sizes in linear.items() if sizes == (hidden, inner)}
        makers |= {name: (0, inner) for name, sizes in linear.items() if sizes == (hidden, 2 * inner) and _fused(name)}
        readers = [name for name, sizes in linear.items() if sizes == (inner, hidden)]
        if inner != hidden and makers and len(readers) == 1 and not taken & {*makers, *readers}:
            members = [m for name, starts in makers.items() for at in starts for m in _rows(block, prefix, name, 1, at)]
            members.append(_columns(block, prefix, readers[0]))
            found[f"linear {key}"] = Group("neurons", inner, tuple(members), key)
            taken |= {*makers, *readers}
        for name in stacks:
            part: Any = block.get_submodule(name)
            wanted = (part.gate_up_proj.shape[1:], part.down_proj.shape[1:]) == ((2 * inner, hidden), (hidden, inner))
            if wanted and name not in taken:
                up, down = f"{prefix}.{name}.gate_up_proj", f"{prefix}.{name}.down_proj"
                halves = (Member(up, 1, "makes", 1, start) for start in (0, inner))
                members = [*halves, Member(down, 2, "reads")]
                found[name] = Group("neurons", inner, tuple(members), key, stacked=True)
                taken.add(name)
    if not found:
        raise Uncuttable(NO_MLP)
    return list(found.values())


def _fused(name: str) -> bool:
    """Whether a layer makes the gate and, below it, what the gate multiplies."""
    return name.rpartition(".")[2] in FUSED


def _stacked(part: Any) -> bool:
    """Whether a module holds all experts' matrices, as (experts, out, in), the gates above what they multiply."""
    from webapp.engine.architectures.layers import INPUTS_FIRST

    known = all(isinstance(getattr(part, name, None), nn.Parameter) for name in ("gate_up_proj", "down_proj"))
    turned = getattr(part, "is_transposed", False) or type(part).__name__ in INPUTS_FIRST
    return known and not turned and part.gate_up_proj.dim() == part.down_proj.dim() == 3


def _heads(prefix: str, block: nn.Module, config: Any) -> list[Group]:
    """Key-value groups with their query heads, where the model type takes `head_dim` from its config."""
    parts = {name.rpartition(".")[2]: name for name, part in block.named_modules() if _sizes(part)}
    if not isinstance(getattr(config, "num_attention_heads", None), int):
        raise Uncuttable("the config has no one number of heads for all blocks")
    size, width = _head_dim(config), int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    queries = size * int(config.num_attention_heads) // width
    if all(name in parts for name in (QUERY, KEY, VALUE, OUTPUT)):
        members = [
            *_rows(block, prefix, parts[QUERY], queries),
            *_rows(block, prefix, parts[KEY], size),
            *_rows(block, prefix, parts[VALUE], size),
        ]
    elif TOGETHER in parts and OUTPUT in parts:  # all queries, then all keys, then all values
        keys = queries * width
        members = [
            *_rows(block, prefix, parts[TOGETHER], queries),
            *_rows(block, prefix, parts[TOGETHER], size, keys),
            *_rows(block, prefix, parts[TOGETHER], size, keys + size * width),
        ]
    else:
        raise Uncuttable("its queries, keys and values are not told apart")
    members.append(_columns(block, prefix, parts[OUTPUT], queries))
    return [Group("heads", width, tuple(members), "num_attention_heads")]


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _sizes(part: nn.Module) -> tuple[int, int] | None:
    """(inputs, outputs) of a linear layer or GPT-2's Conv1D."""
    if isinstance(part, nn.Linear):
        return part.in_features, part.out_features
    if type(part).__name__ == "Conv1D" and isinstance(weight := getattr(part, "weight", None), nn.Parameter):
        return weight.shape[0], weight.shape[1]
    return None


def _rows(block: nn.Module, prefix: str, name: str, repeat: int = 1, offset: int = 0) -> Iterator[Member]:
    part = block.get_submodule(name)
    yield Member(f"{prefix}.{name}.weight", 0 if isinstance(part, nn.Linear) else 1, "makes", repeat, offset)
    if part.bias is not None:
        yield Member(f"{prefix}.{name}.bias", 0, "scales", repeat, offset)


def _columns(block: nn.Module, prefix: str, name: str, repeat: int = 1) -> Member:
    linear = isinstance(block.get_submodule(name), nn.Linear)
    return Member(f"{prefix}.{name}.weight", 1 if linear else 0, "reads", repeat)
