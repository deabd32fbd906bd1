"""A model's weights by name, of which only some are in memory: the others are in a file until they are asked for."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webapp.engine.errors import CheckpointRefused
from webapp.engine.lazy import Tensor, torch

from .base import Encoded, StoragePlan
from .ggml import GgmlBlocks, OpenedBlocks
from .memory import is_want_of_memory
from .safetensors import LazyTensor, as_bytes

KEPT_BYTES = 32 << 20  # of weights that are kept in memory, although they are in a file or could be put into one


@dataclass(frozen=True)
class FiledWeight:
    """A weight in a file: its `parts` by suffix, and what `plan.meta` said of it."""

    parts: Mapping[str, LazyTensor]
    meta: Mapping[str, Any]
    place: str  # in words: "fc1.weight in model.safetensors"

    def load(self) -> Encoded:
        """Raises CheckpointRefused where the parts are not those of such a weight."""
        from . import form_of

        try:
            parts = {suffix: part.load() for suffix, part in self.parts.items()}
            return form_of(self.meta["kind"]).from_parts(parts, self.meta)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            if is_want_of_memory(error):
                raise
            raise CheckpointRefused(f"{self.place} is damaged: {error}. Download the file again.") from None


class Weights(MutableMapping[str, Encoded]):
    """Looking one up reads it where it is in a file; a change is made by putting the changed weight in its place.

    With `spill_into(folder)` what is put here and is more than KEPT_BYTES together goes to a file there, which nobody
    sees and which is gone with the process.
    """

    def __init__(self, given: Mapping[str, Encoded | FiledWeight], file: Path | None = None) -> None:
        """`file`, where there is one, holds these weights and no others."""
        self.file = file
        self._entries: dict[str, Encoded | FiledWeight] = dict(given)
        self._recent: dict[str, Encoded] = {}  # read of a file, the latest last
        self._put: dict[str, int] = {}  # bytes of what was put here and is in memory, the latest last
        self._plans: dict[str, StoragePlan] = {}
        self._spill: _Spill | None = None
        self.changed: set[str] = set()  # names of what was put here since somebody cleared it

    def __getitem__(self, name: str) -> Encoded:
        found = self._entries[name]
        if isinstance(found, Encoded):
            return found
        loaded = self._recent.pop(name, None) or found.load()
        self._recent[name] = loaded
        while len(self._recent) > 1 and sum(each.memory_bytes for each in self._recent.values()) > KEPT_BYTES:
            del self._recent[next(iter(self._recent))]
        return loaded

    def __setitem__(self, name: str, encoded: Encoded) -> None:
        self.file = None
        self._forget(name)
        self._entries[name] = encoded
        self.changed.add(name)
        if self._spill is not None and encoded.memory_bytes:
            self._put[name] = encoded.memory_bytes
            while sum(self._put.values()) > KEPT_BYTES:
                self._file(next(iter(self._put)), self._spill)

    def __delitem__(self, name: str) -> None:
        self.file = None
        del self._entries[name]
        self._forget(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def take(self, others: Weights) -> None:
        """Puts others in the place of those of their names, as they are held there."""
        self.file = None
        for name, entry in others._entries.items():
            self._forget(name)
            self._entries[name] = entry

    def spill_into(self, folder: Path) -> None:
        self._spill = _Spill(folder)

    def open_blocks(self) -> None:
        """Before a step: the blocks that the checkpoint came in are floats, until `close_blocks`."""
        for name, entry in self._entries.items():
            meta = entry.meta if isinstance(entry, FiledWeight) else {}
            if meta.get("zeros") is not None or (isinstance(entry, GgmlBlocks) and entry.zeros is not None):
                assert isinstance(entry, FiledWeight | GgmlBlocks)
                self._entries[name] = OpenedBlocks(entry)
                self._forget(name)

    def close_blocks(self) -> None:
        """Those that no step changed are blocks again."""
        for name, entry in self._entries.items():
            if isinstance(entry, OpenedBlocks):
                assert isinstance(entry.kept, FiledWeight | GgmlBlocks)
                self._entries[name] = entry.kept
                self._forget(name)

    def plan(self, name: str) -> StoragePlan:
        """How a weight is stored; it is read for that once, and not each time."""
        if name not in self._plans:
            self._plans[name] = self[name].plan
        return self._plans[name]

    @property
    def plans(self) -> dict[str, StoragePlan]:
        return {name: self.plan(name) for name in self}

    def parts(self, name: str) -> Mapping[str, LazyTensor]:
        """What a file holds for the weight, by suffix, as `Encoded.parts` says."""
        entry = self._entries[name]
        return entry.parts if isinstance(entry, FiledWeight) else entry.filed_parts()

    def renamed(self, names: Mapping[str, str]) -> Weights:
        """Some of the weights alone: new names, in their order, and under which each is here."""
        made = Weights({new: self._entries[old] for new, old in names.items()})
        made._plans = {new: self._plans[old] for new, old in names.items() if old in self._plans}
        made._spill = self._spill
        return made

    def _file(self, name: str, spill: _Spill) -> None:
        encoded, plan = self[name], self.plan(name)
        self._entries[name] = FiledWeight(spill.written(encoded.parts()), plan.meta, f"{name} in the working file")
        del self._put[name]

    def _forget(self, name: str) -> None:
        for known in (self._plans, self._recent, self._put):
            known.pop(name, None)


class _Spill:
    """A file without a name: the system deletes it when the process ends, however that is."""

    def __init__(self, folder: Path) -> None:
        with tempfile.TemporaryFile(dir=folder) as file:
            self.file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.file)
        self.end = 0

    def written(self, parts: Mapping[str, Tensor]) -> dict[str, LazyTensor]:
        return {suffix: self._written(tensor) for suffix, tensor in parts.items()}

    def _written(self, tensor: Tensor) -> LazyTensor:
        start, shape, dtype = self.end, tuple(tensor.shape), tensor.dtype
        if tensor.numel():
            raw = as_bytes(tensor)
            while raw:
                count = os.pwrite(self.file, raw, self.end)
                self.end, raw = self.end + count, raw[count:]

        def part(first: int, last: int) -> Tensor:
            row = tensor_bytes // shape[0]
            return self._read((last - first, *shape[1:]), dtype, start + first * row)

        tensor_bytes = self.end - start
        return LazyTensor(shape, dtype, lambda: self._read(shape, dtype, start), part if tensor_bytes else None)

    def _read(self, shape: tuple[int, ...], dtype: torch.dtype, start: int) -> Tensor:
        found = torch.empty(shape, dtype=dtype)
        raw = as_bytes(found) if found.numel() else memoryview(b"")
        while raw:
            count = os.preadv(self.file, [raw], start)
            start, raw = start + count, raw[count:]
        return found
