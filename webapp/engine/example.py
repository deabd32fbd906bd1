"""One input with the answer that a delivered file gave to it, for whoever tries the file somewhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .batches import Batch
from .exports.base import Runner
from .facts import ArchitectureSpec
from .signature import EXAMPLE

TOKENS = 16  # of a text: a language model's answer has the whole vocabulary for each


def write_example(runner: Runner, spec: ArchitectureSpec, batch: Batch, folder: Path) -> None:
    """Asks for the batch's first sample, by the names and in the form that the file itself takes."""
    one = batch.first(1).inputs
    given = one if set(runner.inputs) <= set(one) else dict(zip(runner.inputs, one.values(), strict=True))
    whole = (
        "vocab" not in spec.inputs or "length" in spec.inputs
    )  # a text may be as long as one likes, unless it is told
    feed = {name: (given[name] if whole else given[name][:, :TOKENS]).contiguous().numpy() for name in runner.inputs}
    arrays: dict[str, Any] = {f"input.{name}": array for name, array in feed.items()} | {"output": runner.ask(feed)}
    np.savez(folder / EXAMPLE, **arrays)
