"""The forms in which a checkpoint can be uploaded, one file each. A format is told by its bytes, never by its name."""

from .base import Accepted, Format, Opened, one_of
from .exported_program import ExportedProgram
from .gguf_file import Gguf
from .huggingface import HuggingFace
from .onnx_file import Onnx
from .safetensors_upload import Safetensors
from .state_dict import StateDict

FORMATS: tuple[type[Format], ...] = (Safetensors, Gguf, ExportedProgram, StateDict, Onnx, HuggingFace)

__all__ = ["FORMATS", "Accepted", "Format", "Opened", "one_of"]
