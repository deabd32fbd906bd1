"""A GGUF file's header, read once: gguf-py and transformers would read it again for config, tokenizer and tensors."""

from __future__ import annotations

import copy
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import modeling_gguf_pytorch_utils as transformers_gguf

Stamp = tuple[int, int, int]


class PlainReader(gguf.GGUFReader):  # type: ignore[misc]
    """gguf-py's reader on a plain array: a slice of a memory map takes several times as long, and there are 100,000."""

    @property
    def data(self) -> np.ndarray[Any, Any]:
        return self._plain

    @data.setter
    def data(self, mapped: np.ndarray[Any, Any]) -> None:
        self._plain = np.asarray(mapped).view(np.ndarray)

    def _get_field_parts(self, start: int, kind: int) -> tuple[int, list[Any], list[int], list[Any]]:
        """A list of texts, a vocabulary's, in one loop."""
        types = gguf.GGUFValueType
        text = self.byte_order == "I" and kind == types.ARRAY and self._get(start, np.uint32)[0] == types.STRING
        if not text:
            found: tuple[int, list[Any], list[int], list[Any]] = super()._get_field_parts(start, kind)
            return found
        parts = [self._get(start, np.uint32), self._get(start + 4, np.uint64)]
        count, place = int(parts[1][0]), start + 12
        for _ in range(count):
            length = self._plain[place : place + 8].view(np.uint64)
            end = place + 8 + int(length[0])
            parts += (length, self._plain[place + 8 : end])
            place = end
        return place - start, parts, list(range(3, 3 + 2 * count, 2)), [types.ARRAY, *[types.STRING] * (count > 0)]


def read(path: Path) -> gguf.GGUFReader:
    """The reader of a file; the last one is kept, until the file changes."""
    return _read(str(path), _stamp(path))


@lru_cache(maxsize=1)
def _read(path: str, stamp: Stamp) -> gguf.GGUFReader:
    return PlainReader(path)


@lru_cache(maxsize=1)
def _parsed(path: str, stamp: Stamp) -> dict[str, Any]:
    found: dict[str, Any] = _load(path)
    return found


def _load_once(path: str, return_tensors: bool = False, **more: Any) -> dict[str, Any]:
    """transformers' `load_gguf_checkpoint`, whose answer without tensors is kept."""
    if return_tensors or more:
        found: dict[str, Any] = _load(path, return_tensors, **more)
        return found
    return copy.deepcopy(_parsed(str(path), _stamp(path)))


def _stamp(path: str | Path) -> Stamp:
    told = os.stat(path)
    return told.st_ino, told.st_size, told.st_mtime_ns


_load = transformers_gguf.load_gguf_checkpoint
transformers_gguf.load_gguf_checkpoint = _load_once
gguf.GGUFReader = read
