"""The forms in which a checkpoint can be uploaded, one file each. A format is told by its bytes, never by its name."""

from .base import Format, Opened
from .exported_program import ExportedProgram
from .gguf import Gguf
from .huggingface import HuggingFace
from .onnx import Onnx
from .safetensors import Safetensors
from .state_dict import StateDict

FORMATS: tuple[type[Format], ...] = (Safetensors, Gguf, ExportedProgram, StateDict, Onnx, HuggingFace)

__all__ = ["FORMATS", "Format", "Opened"]
