"""One input with the answer that a delivered file gave to it, for whoever tries the file somewhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .batches import Batch
from .exports.base import Runner
from .signature import EXAMPLE

TOKENS = 16  # of a text: a language model's answer has the whole vocabulary for each


def write_example(runner: Runner, batch: Batch, folder: Path) -> None:
    """Asks for the batch's first sample, by the names and in the form that the file itself takes."""
    one = batch.first(1).inputs
    given = one if set(runner.inputs) <= set(one) else dict(zip(runner.inputs, one.values(), strict=True))
    feed = {name: _short(given[name]).contiguous().numpy() for name in runner.inputs}
    arrays: dict[str, Any] = {f"input.{name}": array for name, array in feed.items()} | {"output": runner.ask(feed)}
    np.savez(folder / EXAMPLE, **arrays)


def _short(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_floating_point() else tensor[:, :TOKENS]
