"""A folder for `from_pretrained`, in one zip: transformers loads it without Pare.

Integers are packed as compressed-tensors has them: https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from webapp.engine.architectures.transformers_family import take_batches
from webapp.engine.data.memory import ModelMemory
from webapp.engine.exporters.base import Capabilities, Exporter, Loaded
from webapp.engine.facts import ArchitectureSpec, LayerFacts
from webapp.engine.lazy import torch
from webapp.engine.weights import QuantizedPlan, StoragePlan
from webapp.engine.weights.held import Weights
from webapp.engine.weights.model import Model


class TransformersFolderExporter(Exporter):
    name = "compressed_tensors"
    title = "Transformers folder"
    summary = (
        "Loads with from_pretrained of stock transformers, without Pare. Linear layers' integers are packed as "
        "compressed-tensors, pruned widths are in its config.json; zeros are stored like other values."
    )
    file = "transformers.zip"
    can = Capabilities(
        holds="model",
        loads_in="`from_pretrained`",
        integers="linear layers, packed; embeddings in 16-bit floats",
        factors=False,
        original=False,  # it is a folder for transformers itself
        rounds=True,
        libraries=("compressed-tensors",),
    )

    def lacks(self, spec: ArchitectureSpec) -> str | None:
        known = spec.family == "transformers"
        return None if known else f"It is a folder for transformers, which has no {spec.title}."

    def holds(self, layer: LayerFacts, plan: StoragePlan) -> bool:
        if not isinstance(plan, QuantizedPlan):
            return super().holds(layer, plan)
        packed = layer.kind == "linear" and not layer.aliases and not layer.transposed
        whole = not plan.codebook and (not plan.group or plan.columns % plan.group == 0)
        return packed and whole and super().holds(layer, plan)

    def write(self, model: Model, folder: Path) -> Mapping[str, Any]:
        from .folder import write_folder

        layout = write_folder(model, folder / self.file)
        bits = sorted({scheme.stored_bits for scheme in layout.schemes.values()})
        notes = layout.notes()
        if model.activations:
            notes.append("The rounding of the layers' inputs is not part of the folder.")
        size = (folder / self.file).stat().st_size
        return {"size_bytes": size, "packed": len(layout.schemes), "bits": bits, "notes": notes}

    def load(self, folder: Path, spec: ArchitectureSpec | None) -> Loaded:
        """Stock `from_pretrained` on the unpacked folder; nothing of Pare reads it."""
        import transformers

        from .folder import CONFIG, INSIDE

        with tempfile.TemporaryDirectory() as unpacked, zipfile.ZipFile(folder / self.file) as archive:
            archive.extractall(unpacked)
            inside = Path(unpacked) / INSIDE
            names = json.loads((inside / CONFIG).read_text(encoding="utf8")).get("architectures") or ["AutoModel"]
            kind = getattr(transformers, names[0])
            module = kind.from_pretrained(inside, dtype=torch.float32, local_files_only=True).eval()
        if spec is not None:
            take_batches(module, spec)
        runtime = f"transformers {transformers.__version__}, torch {torch.__version__}, float32"
        return Loaded(module, "from_pretrained of transformers, a process of its own", runtime)

    def rounded(self, model: Model) -> Model:
        from .folder import PackedWeights, as_float

        floats = {name: as_float(model.weights[name]) for name in PackedWeights.of(model).floats}
        return replace(model, weights=Weights({**model.weights, **floats}), activations={})

    def loading(self, model: ModelMemory) -> int:
        return 2 * model.whole

    def arithmetic(self, written: Mapping[str, Any]) -> str:
        if not written["packed"]:
            return "Its weights are plain floats; pruned ones take the room of others."
        bits = " and ".join(map(str, written["bits"]))
        return (
            f"{written['packed']} layers are stored in {bits} bits, which transformers decodes to floats; pruned "
            "weights take the room of others."
        )
