"""An exported program (`.pt2`): torch loads and runs it, with neither Pare nor the model's own code.

Its graph of ATen operators holds the weights: https://docs.pytorch.org/docs/stable/export.html.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webapp.engine.data.memory import ModelMemory
from webapp.engine.exporters.base import Capabilities, Exporter, Loaded
from webapp.engine.facts import ArchitectureSpec
from webapp.engine.lazy import torch
from webapp.engine.weights import Dense, Quantized
from webapp.engine.weights.model import Model

TRACING_BYTES = 400_000_000  # of the libraries alone

if TYPE_CHECKING:
    from webapp.engine.exporters.onnx.trial import TracingTrial


class ExportedProgramExporter(Exporter):
    name = "program"
    title = "Exported program"
    summary = (
        "Loads with torch.export.load, with torch alone. Low-rank factors are kept, integers are decoded at each call; "
        "zeros are stored like other values."
    )
    file = "model.pt2"
    can = Capabilities(
        holds="graph",
        loads_in="torch alone",
        integers="2, 4 or 8 bits, decoded at each call",
        libraries=("torch",),
    )

    def tried(self, trial: TracingTrial) -> str | None:
        from webapp.engine.exporters.onnx.trace import Untraceable

        return f"It cannot be traced: {trial.program}." if isinstance(trial.program, Untraceable) else None

    def write(self, model: Model, folder: Path) -> Mapping[str, Any]:
        from .tracing import exported

        torch.export.save(exported(model), folder / self.file)
        held: Counter[str] = Counter()
        for encoded in model.weights.values():
            for leaf in encoded.leaves:
                if isinstance(leaf, Quantized):
                    held["integers"] += 1
                elif isinstance(leaf, Dense) and leaf.dtype in (torch.float16, torch.bfloat16):
                    held["16-bit floats"] += 1
        return {"size_bytes": (folder / self.file).stat().st_size, "held": dict(held)}

    def load(self, folder: Path, spec: ArchitectureSpec | None) -> Loaded:
        from .runtime import ExportedProgramModule

        assert spec is not None
        module = ExportedProgramModule(torch.export.load(folder / self.file), spec)
        return Loaded(module, "torch.export.load, a process of its own", f"torch {torch.__version__}, its ATen graph")

    def writing(self, model: ModelMemory) -> int | None:
        """Traced without values, then saved by torch, which has all of it in memory."""
        return TRACING_BYTES + model.reading + 3 * model.floats

    def loading(self, model: ModelMemory) -> int:
        return TRACING_BYTES + 2 * model.floats

    def arithmetic(self, written: Mapping[str, Any]) -> str:
        told = " and ".join(f"{count} weights as {what}" for what, count in written["held"].items())
        return f"Holds {told}, which it decodes to float32 at each call: small rather than fast." if told else ""
