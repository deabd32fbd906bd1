"""The model of a run: its weights in the forms that the steps left them in, and the architecture they belong to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from webapp.engine.facts import ArchitectureSpec, CheckpointFacts

from . import Composite, Dense, Encoded
from .activations import Activations
from .originals import original_tensors


@dataclass
class Model:
    """`weights` by tensor name, each tied tensor once; `tied` maps the other names to it.

    `activations` names the modules whose inputs become integers when the model runs. `files` is the folder of what
    came beside the weights (config.json, a tokenizer), where it is at hand.
    """

    weights: dict[str, Encoded]
    tied: dict[str, str] = field(default_factory=dict)
    architecture: ArchitectureSpec | None = None
    activations: dict[str, Activations] = field(default_factory=dict)
    files: Path | None = None

    @classmethod
    def of_checkpoint(cls, folder: Path, facts: CheckpointFacts) -> Model:
        """The checkpoint as it was uploaded; each tensor is read from the file when it is needed."""
        tensors = original_tensors(folder)
        weights: dict[str, Encoded] = {n: Dense(t.load, t.shape, t.dtype) for n, t in tensors.items()}
        return cls(weights, dict(facts.tied), facts.architecture, files=folder)

    def put(self, name: str, encoded: Encoded, factor: str = "") -> None:
        """A new form of a weight, or of one of its factors."""
        whole = self.weights[name]
        self.weights[name] = whole.with_factor(factor, encoded) if factor and isinstance(whole, Composite) else encoded

    @property
    def bytes(self) -> int:
        return sum(encoded.plan.bytes for encoded in self.weights.values())
