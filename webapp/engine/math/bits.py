"""Bit streams: masks of one bit per value, and integers of 1 to 8 bits packed without gaps."""

from __future__ import annotations

import numpy as np

from webapp.engine.lazy import Tensor, torch

CHUNK = 1 << 23  # values unpacked at a time; a multiple of 8, so that every chunk ends on a byte


def pack_mask(mask: Tensor) -> Tensor:
    """Bool tensor of any shape, row-major -> uint8 (ceil(n / 8),). Bit i of byte j is value 8 j + i (little endian)."""
    return torch.from_numpy(np.packbits(mask.reshape(-1).numpy(), bitorder="little"))


def unpack_mask(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `pack_mask`: uint8 (ceil(n / 8),) -> bool of `shape`. Raises ValueError for another length."""
    size = int(np.prod(shape, dtype=np.int64))
    if packed.numel() != -(-size // 8):
        raise ValueError(f"a bitmask of {size} values takes {-(-size // 8)} bytes, and {packed.numel()} are there")
    bits = np.unpackbits(packed.numpy(), count=size, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_)).reshape(shape)


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """uint8 (n,) with values below 2**bits -> uint8 (ceil(n * bits / 8),), lowest bit first.

    At 4 bits byte j holds value 2 j in its low half and 2 j + 1 in its high half.
    """
    flat = codes.reshape(-1).numpy()
    if bits == 8:
        return torch.from_numpy(flat)
    chunks = [_pack(flat[start : start + CHUNK], bits) for start in range(0, len(flat), CHUNK)]
    return torch.from_numpy(np.concatenate(chunks) if chunks else np.zeros(0, np.uint8))


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `pack_codes`: -> uint8 (count,)."""
    flat = packed.numpy()
    if bits == 8:
        return torch.from_numpy(flat[:count])
    out = np.empty(count, np.uint8)
    for start in range(0, count, CHUNK):
        n = min(CHUNK, count - start)
        out[start : start + n] = _unpack(flat[start * bits // 8 :], bits, n)
    return torch.from_numpy(out)


def _pack(values: np.ndarray, bits: int) -> np.ndarray:
    if bits == 4:
        even = np.append(values, np.uint8(0)) if len(values) % 2 else values
        halves: np.ndarray = (even[0::2] | (even[1::2] << 4)).astype(np.uint8)
        return halves
    spread = np.unpackbits(values[:, None], axis=1, count=bits, bitorder="little")  # (n, bits)
    return np.packbits(spread.reshape(-1), bitorder="little")


def _unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    if bits == 4:
        used = packed[: (count + 1) // 2]
        out = np.empty(2 * len(used), np.uint8)
        out[0::2], out[1::2] = used & 15, used >> 4
        return out[:count]
    spread = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(spread, axis=1, bitorder="little").reshape(-1)
