"""The forms in which a checkpoint can be uploaded, one file each. A format is told by its bytes, never by its name."""

from .base import Importer, Opened
from .exported_program import ExportedProgramImporter
from .gguf import GgufImporter
from .huggingface import HuggingFaceImporter
from .onnx import OnnxImporter
from .safetensors import SafetensorsImporter
from .state_dict import StateDictImporter

IMPORTERS: tuple[type[Importer], ...] = (
    SafetensorsImporter,
    GgufImporter,
    ExportedProgramImporter,
    StateDictImporter,
    OnnxImporter,
    HuggingFaceImporter,
)

__all__ = ["IMPORTERS", "Importer", "Opened"]
