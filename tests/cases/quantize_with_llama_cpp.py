"""Run by a test in a process of its own: llama.cpp's own `llama_model_quantize` makes MIXTURE.gguf of a GGUF file.

FOLDER has libllama and what it needs, as `npm pack @node-llama-cpp/linux-x64` brings them. IMPORTANCE is an .npz of the
mean squares of the inputs by tensors' names, or "-".
"""

import ctypes
import sys
from pathlib import Path

import numpy as np
from gguf import LlamaFileType

folder, source, target, importance, *mixtures = sys.argv[1:]
pointer, number, flag = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool


class Params(ctypes.Structure):
    """llama.h's `llama_model_quantize_params`, and room for what a later version adds."""

    _fields_ = (
        *((name, number) for name in ("nthread", "ftype", "output_tensor_type", "token_embedding_type")),
        *((name, flag) for name in ("allow_requantize", "quantize_output_tensor", "only_copy", "pure", "keep_split")),
        ("dry_run", flag),
        *((name, pointer) for name in ("imatrix", "kv_overrides", "tensor_types", "prune_layers")),
        ("more", ctypes.c_byte * 64),
    )


class Entry(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("data", pointer), ("size", ctypes.c_size_t))


for pattern in ("libggml-base*.so*", "libggml.*so*"):
    ctypes.CDLL(str(next(Path(folder).glob(pattern))), mode=ctypes.RTLD_GLOBAL)
library = ctypes.CDLL(str(next(Path(folder).glob("libllama.*so*"))))
library.llama_model_quantize_default_params.restype = Params
library.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Params)]
library.llama_model_quantize.restype = ctypes.c_uint32
params = library.llama_model_quantize_default_params()
params.nthread = 1
if importance != "-":
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in np.load(importance).items()}
    entries = (Entry * (len(arrays) + 1))()
    for place, (name, array) in enumerate(arrays.items()):
        entries[place] = Entry(name.encode(), array.ctypes.data, array.size)
    params.imatrix = ctypes.addressof(entries)
for mixture in mixtures:
    params.ftype = LlamaFileType[f"MOSTLY_{mixture}"]
    made = str(Path(target, f"{mixture}.gguf"))
    if library.llama_model_quantize(source.encode(), made.encode(), ctypes.byref(params)):
        sys.exit(f"llama.cpp refuses {mixture}.")
