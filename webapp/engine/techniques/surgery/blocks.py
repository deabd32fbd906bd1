"""The blocks of a transformers' model, and the same model with fewer of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.engine.architectures import architectures
from webapp.engine.architectures.reshape import ShapeChange
from webapp.engine.facts import ArchitectureSpec, CheckpointFacts
from webapp.engine.techniques.calibration.sequential_calibration import row_of_blocks

COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass(frozen=True)
class Blocks:
    """`path` of the row ("model.layers"), how many there are, and which of them may leave."""

    path: str
    count: int
    key: str  # of the config that says how many
    candidates: tuple[int, ...]

    def of(self, weight: str) -> int | None:
        """The number of the block that a tensor is in; None outside of them."""
        found = re.match(re.escape(self.path) + r"\.(\d+)\.", weight)
        return int(found[1]) if found else None


def blocks_of(facts: CheckpointFacts, chosen: Collection[str]) -> Blocks | None:
    """Blocks may leave whose layers' weights are all in `chosen`. None where the model has no such row."""
    spec = facts.architecture
    if spec is None or spec.family != "transformers":
        return None
    path = row_of_blocks(architectures()[spec.family].skeleton(spec))
    if path is None or not isinstance(getattr(_parsed(spec), "hidden_size", None), int):  # stages that widen
        return None
    own: dict[int, list[str]] = {}
    for layer in facts.layers:
        if found := re.match(re.escape(path) + r"\.(\d+)\.", layer.weight):
            own.setdefault(int(found[1]), []).append(layer.weight)
    key = next((key for key in COUNTS if getattr(_parsed(spec), key, None) == len(own)), None)
    if key is None:
        return None
    return Blocks(path, len(own), key, tuple(i for i in sorted(own) if all(w in chosen for w in own[i])))


def shortened(facts: CheckpointFacts, blocks: Blocks, gone: Sequence[int]) -> ShapeChange:
    """The model without these blocks, the others numbered anew; lists in the config that have an entry each, too."""
    spec = facts.architecture
    assert spec is not None
    stays = [index for index in range(blocks.count) if index not in gone]
    config = dict(spec.config)
    for key, value in {**_parsed(spec).to_dict(), **config}.items():
        if isinstance(value, list) and len(value) == blocks.count and key != "architectures":
            config[key] = [value[index] for index in stays]
    config[blocks.key] = len(stays)
    pattern = re.compile(re.escape(blocks.path) + r"\.(\d+)\.")
    renamed: dict[str, str] = {}
    removed: set[str] = set()
    for name in [*(tensor.name for tensor in facts.tensors), *facts.tied]:
        found = pattern.match(name)
        if found is None:
            continue
        if int(found[1]) in gone:
            removed.add(name)
        else:
            renamed[name] = f"{blocks.path}.{stays.index(int(found[1]))}.{name[found.end() :]}"
    return ShapeChange(spec.model_copy(update={"config": config}), {}, renamed, frozenset(removed))


def _parsed(spec: ArchitectureSpec) -> Any:
    from webapp.engine.architectures.transformers_family import parsed_config

    return parsed_config(spec.config)
