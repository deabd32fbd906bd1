"""TensorFlow SavedModel: what TensorFlow Serving loads. It is made of the ONNX graph, operator by operator.

TensorFlow runs in processes of its own, which know no torch: `convert` and `answering`.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webapp.engine.data.memory import ModelMemory
from webapp.engine.errors import ExportUnfit
from webapp.engine.exporters.base import Capabilities, Exporter, Loaded
from webapp.engine.exporters.onnx import LARGEST_IN_ONE, TRACING_BYTES
from webapp.engine.facts import ArchitectureSpec
from webapp.engine.weights.model import Model

if TYPE_CHECKING:
    from webapp.engine.exporters.onnx.trial import TracingTrial

FOLDER = "model/1"  # TensorFlow Serving's model_base_path is the first part, and the second its version
ONNX = "model.onnx"
BEGINNING = (1980, 1, 1, 0, 0, 0)  # of time, in a zip file: the same files give the same bytes


def _installed(*names: str) -> tuple[str, ...]:
    """Those of the names under which a package may be installed that one is."""
    found = []
    for name in names:
        with suppress(PackageNotFoundError):
            version(name)
            found.append(name)
    return tuple(found)


class SavedModelExporter(Exporter):
    name = "savedmodel"
    title = "TensorFlow SavedModel"
    summary = (
        "Loads in TensorFlow Serving, from the folder in the zip file. Low-rank factors are kept, integers are "
        "decoded to floats once, when it loads; zeros are stored like other values."
    )
    file = "model.savedmodel.zip"
    requires = ("tensorflow",)
    can = Capabilities(
        holds="graph",
        loads_in="TensorFlow Serving",
        integers="decoded once, when it is loaded",
        served_by="TensorFlow Serving",
        libraries=("onnxscript", *_installed("tensorflow", "tensorflow-cpu")),
    )

    def lacks(self, spec: ArchitectureSpec) -> str | None:
        if find_spec("tensorflow") is None:
            return "TensorFlow is not installed where Pare runs: pip install 'pare[tensorflow]' adds it."
        return None

    def tried(self, trial: TracingTrial) -> str | None:
        from webapp.engine.exporters.onnx.trace import Untraceable

        from .names import missing

        if isinstance(trial.graph, Untraceable):
            return f"It cannot be traced: {trial.graph}."
        return f"TensorFlow has nothing here for {', '.join(names)}." if (names := missing(trial.graph.graph)) else None

    def write(self, model: Model, folder: Path) -> Mapping[str, Any]:
        import onnx_ir

        from webapp.engine.exporters.onnx.assembly import assembled
        from webapp.engine.exporters.onnx.trace import Untraceable

        from .runtime import converted

        try:
            made = assembled(model)
        except Untraceable as error:
            raise ExportUnfit(f"This model cannot be written as a SavedModel: {error}.") from error
        with tempfile.TemporaryDirectory() as given:
            scratch = Path(given)
            onnx_ir.save(made.model, scratch / ONNX, external_data=f"{ONNX}.data")
            told = converted(scratch / ONNX, scratch / "zipped" / FOLDER)
            size = zip_folder(scratch / "zipped", folder / self.file)
        return {"size_bytes": size, "kernels": dict(made.kernels), "notes": made.notes, **told}

    def load(self, folder: Path, spec: ArchitectureSpec | None) -> Loaded:
        from .runtime import ServedModule

        assert spec is not None
        unpacked = tempfile.TemporaryDirectory()
        unzip_folder(folder / self.file, Path(unpacked.name))
        module = ServedModule(Path(unpacked.name) / FOLDER, spec, unpacked)
        return Loaded(module, "TensorFlow's own loader, in a process without torch", module.runtime, runner=module)

    def writing(self, model: ModelMemory) -> int | None:
        """As ONNX, then TensorFlow in a process of its own, to which no limit of this one's applies."""
        return TRACING_BYTES + model.reading + 2 * min(model.floats, LARGEST_IN_ONE)

    def loading(self, model: ModelMemory) -> int:
        return int(model.floats)

    def arithmetic(self, written: Mapping[str, Any]) -> str:
        told = ["All products multiply floats"]
        if written["decoded"]:
            told.append(f"{written['decoded']} weights are stored smaller and decoded once, when the model is loaded")
        if written["kernels"].get("integers"):
            told.append("activations are rounded as integers would be, which takes time here and saves none")
        return f"{'; '.join(told)}."


def zip_folder(folder: Path, target: Path) -> int:
    """Writes everything below `folder` into `target`, under paths relative to it; returns the file's size in bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), BEGINNING)
            entry.external_attr = 0o644 << 16
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as written:
                while chunk := source.read(1 << 22):
                    written.write(chunk)
    return target.stat().st_size


def unzip_folder(path: Path, folder: Path) -> None:
    """What `zip_folder` put in."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
