"""Which weights the library `compressed-tensors` can hold as integers, and their tensors in its forms.

Without zero points they are packed (pack-quantized). With them each integer takes a byte (int-quantized): the library
packs zero points as well, but makes no room for packed ones while transformers loads a model (0.20).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.math.quantizers import Grid
from webapp.engine.weights import Dense, Encoded, Quantized, half_dtype
from webapp.engine.weights.safetensors import LazyTensor


@dataclass(frozen=True)
class PackingScheme:
    """How a matrix is quantized: what the library calls a config group."""

    bits: int
    group: int
    symmetric: bool

    @classmethod
    def of(cls, grid: Grid) -> PackingScheme:
        return cls(grid.bits, grid.group, grid.zero_point is None)

    @property
    def form(self) -> str:
        return "pack-quantized" if self.symmetric else "int-quantized"

    @property
    def stored_bits(self) -> int:
        return self.bits if self.symmetric else 8

    def config(self, targets: list[str]) -> dict[str, Any]:
        spread = {"strategy": "group", "group_size": self.group} if self.group else {"strategy": "channel"}
        weights = {"num_bits": self.bits, "type": "int", "symmetric": self.symmetric, "dynamic": False, **spread}
        return {"targets": targets, "weights": weights, "format": self.form}


def why_float(encoded: Encoded, part: nn.Module | None, tied: bool, read: bool = False) -> str | None:
    """Why a weight that is no plain tensor cannot be packed; None where it can, or is one."""
    if isinstance(encoded, Dense):
        return None
    if not isinstance(encoded, Quantized):
        return f"there is no {encoded.plan.label} in compressed-tensors"
    if not isinstance(part, nn.Linear):
        kinds = {2: "an embedding", 3: "a stack of experts" if part is None else "another"}
        return f"only linear layers are packed, and this is {kinds.get(len(encoded.shape), 'another')}"
    if type(part).forward is not nn.Linear.forward:
        return f"a {type(part).__name__} multiplies with its weight itself"
    if tied:
        return "it is tied to the embedding"
    if read:
        return "transformers reads this weight elsewhere than in its layer"
    if encoded.grid.levels is not None:
        return "there are no codebooks in compressed-tensors"
    if encoded.grid.group and encoded.codes.shape[1] % encoded.grid.group:
        return f"its rows of {encoded.codes.shape[1]} are no whole groups of {encoded.grid.group}"
    return None


def stored(name: str, encoded: Quantized) -> dict[str, LazyTensor]:
    """The tensors of a linear layer's weight (out, in), by their names in the file."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    grid, path, shape = encoded.grid, name.removesuffix(".weight"), tuple(encoded.codes.shape)
    offset = 2 ** (grid.bits - 1)

    def signed(codes: Tensor) -> Tensor:
        return torch.as_tensor(codes.to(torch.int16) - offset, dtype=torch.int8)

    found = {f"{path}.weight_scale": LazyTensor(tuple(grid.scale.shape), grid.scale.dtype, lambda: grid.scale)}
    if (zero := grid.zero_point) is not None:
        found[name] = LazyTensor(shape, torch.int8, lambda: signed(encoded.codes))
        found[f"{path}.weight_zero_point"] = LazyTensor(tuple(zero.shape), torch.int8, lambda: signed(zero))
        return found
    words = -(-shape[1] * grid.bits // 32)
    whole = LazyTensor((shape[0], words), torch.int32, lambda: pack_to_int32(signed(encoded.codes), grid.bits))
    sizes = LazyTensor((2,), torch.int64, lambda: torch.tensor(shape))
    return {**found, f"{path}.weight_packed": whole, f"{path}.weight_shape": sizes}


def as_float(encoded: Encoded) -> Encoded:
    """A weight that is not packed: its values in half precision."""
    return Dense(encoded.decode().to(half_dtype(encoded)))
