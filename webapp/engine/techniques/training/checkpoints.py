"""Where a training is, on disk: written beside its final name and renamed, so that a kill at any moment leaves one."""

from __future__ import annotations

import fcntl
import os
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any

from webapp.engine.lazy import Tensor, torch

STATE = "training.pt"
EVERY_SECONDS = 60.0
LARGEST_SHARE = 0.1  # of the time may go into writing at the ends of epochs


class Checkpoints:
    """Of one training, in `folder`. `identity` tells it from another training that left its state there."""

    def __init__(self, folder: Path, identity: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # a process that was given up is still at it
            folder = folder / str(os.getpid())
            folder.mkdir()
        self.folder, self.identity = folder, identity
        self._written_at, self._took = time.monotonic(), 0.0

    def close(self) -> None:
        self._lock.close()

    def load(self) -> dict[str, Any] | None:
        """What `save` wrote last; None where there is nothing, or nothing that can be read."""
        path = self.folder / STATE
        if not path.exists() or not zipfile.is_zipfile(path):  # the latter ends the file: it is whole
            return None
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError):
            return None
        if not isinstance(found, dict) or found.get("identity") != self.identity:
            return None
        return found if (self.folder / _best(found["best_step"])).exists() else None

    def due(self, epoch_ends: bool) -> bool:
        since = time.monotonic() - self._written_at
        return since >= EVERY_SECONDS or (epoch_ends and since * LARGEST_SHARE >= self._took)

    def save(self, state: dict[str, Any]) -> None:
        start = time.monotonic()
        self._write(STATE, state | {"identity": self.identity})
        for path in self.folder.glob("best-*.pt"):
            if path.name != _best(state["best_step"]):
                path.unlink(missing_ok=True)
        self._written_at = time.monotonic()
        self._took = self._written_at - start

    def save_best(self, step: int, weights: dict[str, Tensor]) -> None:
        """Kept beside earlier ones until a state names it: what a restart goes back to must be there."""
        self._write(_best(step), {name: tensor.detach() for name, tensor in weights.items()})

    def best(self, step: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = torch.load(self.folder / _best(step), map_location="cpu", weights_only=True)
        return found

    def _write(self, name: str, content: dict[str, Any]) -> None:
        partial = self.folder / f"{name}.partial"
        torch.save(content, partial)
        partial.replace(self.folder / name)


def _best(step: int) -> str:
    return f"best-{step}.pt"
