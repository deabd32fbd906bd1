"""One input with the answer that a delivered file gave to it, for whoever tries the file somewhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from webapp.engine.data.batches import Batch
from webapp.engine.exporters.base import RuntimeSession
from webapp.engine.exporters.onnx.signature import EXAMPLE
from webapp.engine.facts import ArchitectureSpec

TOKENS = 16  # of a text: a language model's answer has the whole vocabulary for each
MORE_TOKENS = 64  # for a program, which may need as many as its kernels are long
MORE_TOKENS = 64  # for a program, which may need as many as its kernels are long


def write_example(runner: RuntimeSession, spec: ArchitectureSpec, batch: Batch, folder: Path) -> None:
    """Asks for the batch's first sample, by the names and in the form that the file itself takes."""
    one = batch.first(1).inputs
    given = one if set(runner.inputs) <= set(one) else dict(zip(runner.inputs, one.values(), strict=True))
    if "vocab" in spec.inputs:
        tokens = int(spec.inputs.get("length") or (MORE_TOKENS if spec.family == "program" else TOKENS))
        given = {name: tensor[:, :tokens] for name, tensor in given.items()}
    feed = {name: given[name].contiguous().numpy() for name in runner.inputs}
    arrays: dict[str, Any] = {f"input.{name}": array for name, array in feed.items()} | {"output": runner.ask(feed)}
    np.savez(folder / EXAMPLE, **arrays)
