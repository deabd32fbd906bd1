"""The model of a run: its weights in the forms that the steps left them in, and the architecture they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from webapp.engine.facts import ArchitectureSpec, CheckpointFacts

from . import Composite, Dense, Encoded, StoragePlan, stored_plan
from .activations import Activations
from .ggml import BLOCKS
from .held import FiledWeight, Weights
from .manifest import filed_weights, manifest_in, stored_activations
from .originals import original_file


@dataclass(init=False)
class Model:
    """`weights` by tensor name, each tied tensor once; `tied` maps the other names to it.

    `activations` names the modules whose inputs become integers when the model runs. `files` is the folder of what
    came beside the weights (config.json, a tokenizer), where it is at hand.
    """

    weights: Weights
    tied: dict[str, str]
    architecture: ArchitectureSpec | None
    activations: dict[str, Activations]
    files: Path | None

    def __init__(
        self,
        weights: Mapping[str, Encoded],
        tied: Mapping[str, str] | None = None,
        architecture: ArchitectureSpec | None = None,
        activations: Mapping[str, Activations] | None = None,
        files: Path | None = None,
    ) -> None:
        self.weights = weights if isinstance(weights, Weights) else Weights(weights)
        self.tied, self.architecture = dict(tied or {}), architecture
        self.activations, self.files = dict(activations or {}), files

    @classmethod
    def of_checkpoint(cls, folder: Path, facts: CheckpointFacts) -> Model:
        """The checkpoint as it was uploaded; each tensor is read from the file when it is needed."""
        (tensors, metadata), known = original_file(folder), {tensor.name: tensor for tensor in facts.tensors}
        content = manifest_in(metadata, "the checkpoint")
        weights: dict[str, Encoded | FiledWeight] = {}
        if content is not None:
            in_parts, tensors = filed_weights(content, tensors, "the checkpoint")
            weights |= in_parts
        for stored, tensor in tensors.items():
            name = stored.removesuffix(BLOCKS)
            told = known.get(name)
            if stored != name and told is not None and told.block_type is not None:
                meta = stored_plan(told).meta
                weights[name] = FiledWeight({BLOCKS: tensor}, meta, f"{name} of the checkpoint")
            else:
                weights[stored] = Dense(tensor, zeros=told.zeros if told is not None else None)
        activations = stored_activations(content) if content is not None else None
        return cls(Weights(weights), facts.tied, facts.architecture, activations, folder)

    def weight(self, name: str) -> Encoded:
        """A weight by its name, or by one that is tied to it."""
        return self.weights[self.tied.get(name, name)]

    def plan(self, name: str) -> StoragePlan:
        """The same of its plan, for which its values are read once at most."""
        return self.weights.plan(self.tied.get(name, name))

    @property
    def names(self) -> list[str]:
        """Of all weights, with those that are tied to others."""
        return [*self.weights, *self.tied]

    def put(self, name: str, encoded: Encoded, factor: str = "") -> None:
        """A new form of a weight, or of one of its factors."""
        whole = self.weights[name]
        self.weights[name] = whole.with_factor(factor, encoded) if factor and isinstance(whole, Composite) else encoded

    @property
    def bytes(self) -> int:
        return sum(plan.bytes for plan in self.weights.plans.values())
