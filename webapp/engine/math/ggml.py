"""Blocks of llama.cpp's number formats: written by its own code, which the wheels of xllamacpp hold, read by gguf-py.

A row of a matrix is a run of blocks of 256 or 32 neighbours, each with codes and scales of its own:
https://github.com/ggml-org/ggml/blob/master/src/ggml-quants.c. What becomes of a row depends on no other row.
"""

from __future__ import annotations

import ctypes
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from webapp.engine.lazy import Tensor, torch

from .threads import for_rows

AT_A_TIME = 1 << 20  # weights that are decoded at once, of which gguf-py takes several times their bytes
SHARE = 1 << 16  # weights that a thread takes at once
SMALLEST, LARGEST = 1e-4, 65504.0  # the largest value of a matrix whose blocks have scales of float16
LEAST = 1e-6  # of the mean: an input that no sample moved counts so much, for a block of zeros would become zeros
MISSING = "xllamacpp, which holds llama.cpp's own code, is not installed: pip install 'pare[gguf]' adds it"


@dataclass(frozen=True)
class BlockType:
    """`size` weights take `bytes`. `guided`: made without the importance of the inputs it would be worthless."""

    size: int
    bytes: int
    guided: bool = False

    @property
    def bits(self) -> float:
        return 8 * self.bytes / self.size

    def row_bytes(self, columns: int) -> int:
        return columns // self.size * self.bytes


TYPES = {  # by llama.cpp's names, of most bits first
    "Q8_0": BlockType(32, 34),
    "Q6_K": BlockType(256, 210),
    "Q5_1": BlockType(32, 24),
    "Q5_K": BlockType(256, 176),
    "Q5_0": BlockType(32, 22),
    "Q4_1": BlockType(32, 20),
    "Q4_K": BlockType(256, 144),
    "Q4_0": BlockType(32, 18),
    "IQ4_NL": BlockType(32, 18),
    "IQ4_XS": BlockType(256, 136),
    "MXFP4": BlockType(32, 17),
    "Q3_K": BlockType(256, 110),
    "IQ3_S": BlockType(256, 110),
    "IQ3_XXS": BlockType(256, 98, guided=True),
    "Q2_K": BlockType(256, 84),
    "IQ2_S": BlockType(256, 82, guided=True),
    "IQ2_XS": BlockType(256, 74, guided=True),
    "IQ2_XXS": BlockType(256, 66, guided=True),
}


def missing() -> str | None:
    """Why no blocks can be made here; None where they can."""
    return None if find_spec("xllamacpp") is not None else MISSING


def quantized(values: Tensor, name: str, importance: Tensor | None = None) -> Tensor:
    """uint8 (rows, bytes of a row) of float32 (rows, columns), where whole blocks make a row.

    `importance` (columns,): what an error is multiplied with, squared: the mean square of each input; None: nothing, or
    the same for all where the type is made with no less. Raises ValueError for values that the type cannot hold;
    llama.cpp itself would end the process.
    """
    kind, (rows, columns) = TYPES[name], values.shape
    largest = float(values.abs().max()) if values.numel() else 0.0
    if not (largest == 0 or SMALLEST <= largest <= LARGEST):  # NaN too
        raise ValueError(f"its values go up to {largest:.2g}, and the scales of {name} are float16")
    values, weights = values.float().contiguous(), torch.ones(columns) if kind.guided else None
    if importance is not None:
        weights = importance.float()
        weights = weights.clamp(min=LEAST * float(weights.mean())).contiguous()
        if not 0 < float(weights.sum()) < math.inf:
            weights = torch.ones_like(weights)
    made = torch.empty(rows, kind.row_bytes(columns), dtype=torch.uint8)
    functions, number = library(), _number(name)
    functions.ggml_quantize_init(number)

    def take(start: int) -> None:
        count = min(share, rows - start)
        given = None if weights is None else weights.data_ptr()
        functions.ggml_quantize_chunk(
            number, values.data_ptr(), made.data_ptr(), start * columns, count, columns, given
        )

    share = max(1, SHARE // max(columns, 1))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(take, range(0, rows, share)))
    if not functions.ggml_validate_row_data(number, made.data_ptr(), made.numel()):
        raise ValueError(f"its values go up to {largest:.2g}, and the scales of {name} are float16")
    return made


def dequantized(blocks: Tensor, name: str) -> Tensor:
    """float32 (rows, columns) of what `quantized` gives, a part of the rows at a time."""
    columns = blocks.shape[1] // TYPES[name].bytes * TYPES[name].size
    found = torch.empty(len(blocks), columns)

    def some(rows: slice) -> None:
        found[rows] = _decoded(blocks[rows], name)

    for_rows(found.shape, AT_A_TIME, some)
    return found


def _decoded(blocks: Tensor, name: str) -> Tensor:
    import gguf

    return torch.from_numpy(gguf.dequantize(blocks.contiguous().numpy(), gguf.GGMLQuantizationType[name]))


@cache
def _number(name: str) -> int:
    import gguf

    return int(gguf.GGMLQuantizationType[name])


@cache
def library() -> Any:
    """llama.cpp's functions. Raises ModuleNotFoundError where they are not installed."""
    spec = find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(MISSING)
    folder = Path(spec.origin).parent
    found = ctypes.CDLL(str(next(path for end in ("so", "pyd") for path in sorted(folder.glob(f"xllamacpp*.{end}")))))
    address, count, kind = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    found.ggml_quantize_init.argtypes = [kind]
    found.ggml_quantize_init.restype = None
    found.ggml_quantize_chunk.argtypes = [kind, address, address, count, count, count, address]
    found.ggml_quantize_chunk.restype = ctypes.c_size_t
    found.ggml_validate_row_data.argtypes = [kind, address, ctypes.c_size_t]
    found.ggml_validate_row_data.restype = ctypes.c_bool
    return found
