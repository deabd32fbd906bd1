"""What a walk through the blocks of a model has done, kept on disk: one that was killed goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webapp.engine.importers.gguf.importance import Entry
from webapp.engine.lazy import Tensor, torch
from webapp.engine.weights.artifact import read_model, write_model
from webapp.engine.weights.model import Model
from webapp.engine.weights.safetensors import lazy_tensors, write_safetensors

if TYPE_CHECKING:
    from webapp.engine.techniques.base import Outcome

EVERY_SECONDS = 30.0
LARGEST_SHARE = 0.1  # of the time may go into writing
DONE = "blocks.json"


class KeptBlocks:
    """`outcomes` are the walk's own, by layer, and `importance` what it measured: kept with the weights it changed.

    Without a folder nothing is kept. Each state is written beside its final name and named last, so that a kill at any
    moment leaves one.
    """

    def __init__(
        self,
        folder: Path | None,
        model: Model,
        outcomes: dict[str, list[Outcome]],
        importance: dict[str, Entry] | None = None,
    ) -> None:
        self.folder, self.model, self.outcomes = folder, model, outcomes
        self.importance = {} if importance is None else importance
        self._files: list[str] = []
        self._begun = time.monotonic()
        self._spent = 0.0
        model.weights.changed.clear()

    @property
    def there(self) -> bool:
        """Whether an earlier process left something."""
        return self.folder is not None and (self.folder / DONE).exists()

    def restored(self) -> tuple[int, list[Tensor], list[Tensor]]:
        """How many blocks are done, and what the next is given: the samples' states, and the original's.

        Weights and outcomes are as they were then.
        """
        from webapp.engine.techniques.base import Outcome

        assert self.folder is not None
        told = json.loads((self.folder / DONE).read_text(encoding="utf8"))
        for name in told["weights"]:
            found = read_model(self.folder / name)
            self.model.weights.take(found.weights)
            self.model.activations |= found.activations
        self._files = told["weights"]
        for name, rows in told["outcomes"].items():
            self.outcomes[name] = [Outcome(**row) for row in rows]
        tensors = {name: tensor.load() for name, tensor in lazy_tensors(self.folder / told["states"]).items()}
        torch.set_rng_state(tensors.pop("random"))
        for name in told["importance"]:
            self.importance[name] = Entry(tensors[f"sums.{name}"], tensors[f"counts.{name}"])
        sides = [[tensors[f"{side}.{i}"] for i in range(told[side])] for side in ("own", "original")]
        return told["blocks"], sides[0], sides[1]

    def keep(self, blocks: int, own: Sequence[Tensor], original: Sequence[Tensor]) -> None:
        """So many blocks are done: kept where there is something to lose."""
        start = time.monotonic()
        since = start - self._begun
        if self.folder is None or since < EVERY_SECONDS or LARGEST_SHARE * since < self._spent:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        changed = sorted(self.model.weights.changed)
        part = Model(self.model.weights.renamed({name: name for name in changed}), activations=self.model.activations)
        weights, states = f"weights-{blocks}.safetensors", f"states-{blocks}.safetensors"
        write_model(part, self.folder / weights)
        tensors = {f"own.{i}": x for i, x in enumerate(own)} | {f"original.{i}": x for i, x in enumerate(original)}
        tensors |= {f"sums.{name}": entry.sums for name, entry in self.importance.items()}
        tensors |= {f"counts.{name}": entry.counts for name, entry in self.importance.items()}
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_safetensors(self.folder / states, contiguous | {"random": torch.get_rng_state()})
        self._files.append(weights)
        self._name(
            {
                "blocks": blocks,
                "own": len(own),
                "original": len(original),
                "states": states,
                "importance": [*self.importance],
            }
        )
        self.model.weights.changed.clear()
        for path in self.folder.glob("states-*.safetensors"):
            if path.name != states:
                path.unlink()
        self._begun = time.monotonic()
        self._spent = self._begun - start

    def _name(self, told: dict[str, Any]) -> None:
        assert self.folder is not None
        outcomes = {name: [asdict(row) for row in rows] for name, rows in self.outcomes.items()}
        unfinished = self.folder / f"{DONE}.unfinished"
        unfinished.write_text(json.dumps({**told, "weights": self._files, "outcomes": outcomes}), encoding="utf8")
        unfinished.replace(self.folder / DONE)
