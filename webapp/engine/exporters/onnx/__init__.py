"""ONNX: one file that onnxruntime and others run without torch and without Pare.

The model is traced once, then the graph is given the weights in the forms in which they are stored. The files beside
this one import onnx, onnxscript or onnxruntime, which take seconds, so they are imported where they are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webapp.engine.data.memory import ModelMemory
from webapp.engine.errors import ExportUnfit
from webapp.engine.exporters.base import Capabilities, Exporter, Loaded
from webapp.engine.facts import ArchitectureSpec
from webapp.engine.weights.model import Model

if TYPE_CHECKING:
    from .trial import TracingTrial

LARGEST_IN_ONE = 1_900_000_000  # bytes; a protobuf message ends at 2 GiB
TRACING_BYTES, RUNTIME_BYTES = 400_000_000, 200_000_000  # of the libraries alone
BESIDE = "model.onnx.data"


class OnnxExporter(Exporter):
    name = "onnx"
    title = "ONNX"
    summary = (
        "Runs in onnxruntime and other ONNX runtimes, without torch or Pare. Integers and low-rank factors are "
        "kept; zeros are stored like other values."
    )
    file = "model.onnx"
    can = Capabilities(
        holds="graph",
        loads_in="onnxruntime",
        integers="8 and 4 bits",
        served_by="onnxruntime",
        libraries=("onnx", "onnxruntime", "onnxscript"),
    )

    def tried(self, trial: TracingTrial) -> str | None:
        from .trace import Untraceable

        return f"It cannot be traced: {trial.graph}." if isinstance(trial.graph, Untraceable) else None

    def write(self, model: Model, folder: Path) -> Mapping[str, Any]:
        import onnx_ir

        from .assembly import assembled
        from .trace import Untraceable

        try:
            made = assembled(model, keep=True)
        except Untraceable as error:
            raise ExportUnfit(f"This model cannot be written as ONNX: {error}.") from error
        held = sum(v.const_value.nbytes for v in made.model.graph.initializers.values() if v.const_value is not None)
        onnx_ir.save(made.model, folder / self.file, external_data=BESIDE if held > LARGEST_IN_ONE else None)
        size = sum(path.stat().st_size for path in folder.iterdir() if path.name in (self.file, BESIDE))
        return {"size_bytes": size, "kernels": dict(made.kernels), "notes": made.notes}

    def load(self, folder: Path, spec: ArchitectureSpec | None) -> Loaded:
        from .runtime import InParts, SessionModule

        assert spec is not None
        module = SessionModule(folder / self.file, spec)
        in_parts = InParts(module) if module.kept else None
        return Loaded(module, "onnxruntime, a process of its own", module.runtime, runner=module, in_parts=in_parts)

    def writing(self, model: ModelMemory) -> int | None:
        """Traced without values; then what is one protobuf message is put together in memory."""
        return TRACING_BYTES + model.reading + 2 * min(model.floats, LARGEST_IN_ONE)

    def loading(self, model: ModelMemory) -> int:
        """onnxruntime, which keeps its own form of the weights beside those of the file."""
        return RUNTIME_BYTES + int(2.5 * model.floats)

    def arithmetic(self, written: Mapping[str, Any]) -> str:
        kernels, told = written["kernels"], []
        if kernels.get("integers"):
            told.append(f"{kernels['integers']} products multiply 8-bit integers")
        if kernels.get("4-bit weights"):
            told.append(f"{kernels['4-bit weights']} products read 4-bit weights as they are")
        if kernels.get("floats"):
            told.append(f"{kernels['floats']} multiply floats, whose weights are decoded when the file is loaded")
        return f"{', '.join(told)}." if told else ""
