"""llama.cpp's importance matrices (imatrix files): of each input of a tensor the mean square that samples gave it.

Two forms are read, and the first is written. GGUF, of the type "imatrix": NAME.in_sum2 (matrices, columns) and
NAME.counts (matrices,), float32, of which the quotient is the mean square. The older one, without a magic number: how
many entries, and of each its name, a count n and the mean squares times n.
https://github.com/ggml-org/llama.cpp/blob/master/tools/imatrix/imatrix.cpp (`save_imatrix`, `load_imatrix`) and
https://github.com/ggml-org/llama.cpp/blob/master/tools/quantize/quantize.cpp, which reads them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webapp.engine.errors import CheckpointRefused, quoted, some
from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor, torch
from webapp.engine.weights.safetensors import checked_name

from .header import TENSORS, check_header
from .names import their_name

FILE = "imatrix.gguf"  # in the folder of a checkpoint, and of a result
NAMED = re.compile(r".*imatrix.*\.(gguf|dat)|.+\.imatrix", re.IGNORECASE)
LARGEST_BYTES = 1_000_000_000  # those of models of 100 billion weights take 100 MB
SUMS, COUNTS = ".in_sum2", ".counts"
LONGEST_TEXT = 10_000  # bytes of the name of a data set
AGAIN = "download it again"


@dataclass(frozen=True)
class Entry:
    """`sums` float32 (matrices, columns): of squares; `counts` float32 (matrices,): of the rows that were seen."""

    sums: Tensor
    counts: Tensor

    @property
    def means(self) -> Tensor:
        """(matrices, columns). Of a matrix that no row reached all are 1, as in llama.cpp."""
        counts = self.counts[:, None]
        return torch.where(counts > 0, self.sums / counts.clamp(min=1), torch.ones(()))


@dataclass(frozen=True)
class Importance:
    """`entries` by llama.cpp's names of the tensors; seen were `chunks` of `chunk_tokens` tokens of `datasets`."""

    entries: Mapping[str, Entry]
    chunks: int = 0
    chunk_tokens: int = 0
    datasets: tuple[str, ...] = ()

    def of(self, layer: LayerFacts) -> Tensor | None:
        """The mean squares (groups, columns) of a layer's inputs; None where there are none."""
        found = self.entries.get(their_name(layer.weight) or "")
        return None if found is None else found.means

    def why_not(self, layers: Iterable[LayerFacts]) -> str | None:
        """Why it is not of the model with these layers, as the rest of a sentence."""
        known = {their_name(layer.weight): layer for layer in layers if layer.kind == "linear"}
        shared = [(name, known[name]) for name in self.entries if name in known]
        if not shared:
            return f"is of another model: no layer of this one is among {some(list(self.entries))}"
        for name, layer in shared:
            held, wanted = self.entries[name].sums.numel(), layer.layout.inputs(layer.shape)
            if held != wanted:
                return f"is of another model: it has {held} numbers for {name}, whose inputs are {wanted} here"
        return None

    def lacking(self, layers: Iterable[LayerFacts]) -> list[str]:
        """The layers in blocks that it says nothing of; the head is left out by llama.cpp too."""
        blocks = (layer for layer in layers if layer.kind == "linear" and not layer.name.endswith("lm_head"))
        return [layer.name for layer in blocks if self.of(layer) is None]

    def told(self) -> str:
        """ "100 chunks of 512 tokens of calibration.txt"; empty where the file does not say."""
        seen = f"{self.chunks:,} chunk{'s' if self.chunks > 1 else ''}" + (
            f" of {self.chunk_tokens:,} tokens" if self.chunk_tokens else ""
        )
        return (seen if self.chunks else "") + (f" of {', '.join(self.datasets)[:80]}" if self.datasets else "")


def matrices_among(sizes: Mapping[str, int], notes: list[str]) -> list[str]:
    """The one importance matrix in a folder, by the files' names; of several none, with a note."""
    found = sorted(name for name, size in sizes.items() if NAMED.fullmatch(name) and "/" not in name and size)
    if len(found) > 1:
        notes.append(f"Beside the weights lie {some(found)}, several importance matrices, so none is used.")
    return found if len(found) == 1 and sizes[found[0]] <= LARGEST_BYTES else []


def read_importance(path: Path, filename: str) -> Importance:
    """Raises CheckpointRefused for a file that is no such matrix, was cut short, or holds what no mean square is."""
    if path.stat().st_size > LARGEST_BYTES:
        raise CheckpointRefused(f"{filename} is larger than any importance matrix ({LARGEST_BYTES:,} bytes)")
    with path.open("rb") as file:
        magic = file.read(4)
    found = _of_gguf(path, filename) if magic == b"GGUF" else _Older(path.read_bytes(), filename).read()
    for name, entry in found.entries.items():
        if not bool(torch.isfinite(entry.sums).all() & torch.isfinite(entry.counts).all()):
            raise CheckpointRefused(f"{filename} holds numbers for {name} that are not finite: it is damaged; {AGAIN}")
        if bool((entry.sums < 0).any() | (entry.counts < 0).any()):
            raise CheckpointRefused(f"{filename} holds negative numbers for {name}, and squares have none; {AGAIN}")
    return found


def write_importance(path: Path, found: Importance) -> None:
    """The same matrix gives the same bytes."""
    from gguf import GGUFType, GGUFWriter, Keys

    writer = GGUFWriter(path, "")  # of no architecture
    writer.add_type(GGUFType.IMATRIX)
    writer.add_array(Keys.IMatrix.DATASETS, list(found.datasets) or ["calibration"])
    writer.add_uint32(Keys.IMatrix.CHUNK_COUNT, found.chunks)
    writer.add_uint32(Keys.IMatrix.CHUNK_SIZE, found.chunk_tokens)
    for name in sorted(found.entries):
        entry = found.entries[name]
        writer.add_tensor(name + SUMS, entry.sums.float().contiguous().numpy())
        writer.add_tensor(name + COUNTS, entry.counts.float()[:, None].contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _of_gguf(path: Path, filename: str) -> Importance:
    import gguf

    from .reader import PlainReader

    told = check_header(path, filename)
    if told.get(gguf.Keys.General.TYPE) != gguf.GGUFType.IMATRIX:
        kind = quoted(str(told.get(gguf.Keys.General.TYPE, "model")))
        raise CheckpointRefused(f'{filename} is a GGUF file of the type {kind}, and an importance matrix is "imatrix"')
    reader = PlainReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    entries = {}
    for name in (each.removesuffix(SUMS) for each in tensors if each.endswith(SUMS)):
        parts = [tensors.get(name + suffix) for suffix in (SUMS, COUNTS)]
        entries[name] = _entry(name, [_floats(part) for part in parts], filename)
    if not entries:
        raise CheckpointRefused(f"{filename} is an importance matrix without entries")
    field = reader.get_field(gguf.Keys.IMatrix.DATASETS)
    datasets = tuple(map(str, field.contents())) if field is not None and field.data else ()
    counts = [told.get(key) for key in (gguf.Keys.IMatrix.CHUNK_COUNT, gguf.Keys.IMatrix.CHUNK_SIZE)]
    chunks, tokens = (count if type(count) is int else 0 for count in counts)
    return Importance(entries, chunks, tokens, tuple(each[:LONGEST_TEXT] for each in datasets))


def _floats(tensor: Any) -> Tensor | None:
    """float32 (matrices, …) of a tensor of the file."""
    if tensor is None or tensor.tensor_type.name != "F32":
        return None
    return torch.from_numpy(tensor.data.copy()).reshape(-1, int(tensor.shape[0]))


def _entry(name: str, parts: list[Tensor | None], filename: str) -> Entry:
    sums, counts = parts
    if sums is None or counts is None or counts.shape != (len(sums), 1):
        raise CheckpointRefused(
            f"{filename} is damaged: {name}{SUMS} and {name}{COUNTS} should be 32-bit floats, a count for each matrix"
        )
    return Entry(sums, counts[:, 0])


class _Older:
    """The form before GGUF: little-endian, numbers of 32 bits."""

    def __init__(self, raw: bytes, filename: str) -> None:
        self.raw, self.at, self.filename = raw, 0, filename

    def read(self) -> Importance:
        count = self._number("how many entries it has", TENSORS)
        if not count:
            raise CheckpointRefused(f"{self.filename} is an importance matrix without entries")
        entries = {}
        for _ in range(count):
            length = self._number("the length of a name", 1000)
            try:
                name = checked_name(str(self._bytes(length), "utf8"), self.filename)
            except UnicodeDecodeError:
                raise self._no_matrix("a name that is no text") from None
            if name in entries:
                raise CheckpointRefused(f"{self.filename} holds {name} twice; {AGAIN}")
            calls, values = self._number(f"the calls of {name}"), self._number(f"the numbers of {name}")
            raw = bytearray(self._bytes(4 * values))
            sums = torch.frombuffer(raw, dtype=torch.float32) if values else torch.empty(0)
            entries[name] = Entry(sums[None], torch.tensor([float(calls)]))
        chunks, dataset = 0, b""
        if self.at < len(self.raw):  # what the first versions did not write
            chunks = self._number("how many chunks were seen")
        if self.at < len(self.raw):
            dataset = self._bytes(self._number("the length of its data set's name", LONGEST_TEXT))
        return Importance(entries, chunks, 0, (dataset.decode("utf8", "replace"),) if dataset else ())

    def _number(self, what: str, most: int = 2**31) -> int:
        (found,) = struct.unpack("<i", self._bytes(4))
        if not 0 <= found <= most:
            raise self._no_matrix(f"{found} where {what} should be")
        return int(found)

    def _bytes(self, count: int) -> bytes:
        if self.at + count > len(self.raw):
            raise CheckpointRefused(
                f"{self.filename} ends where {self.at + count - len(self.raw)} more bytes should be: it was cut short, "
                f"or is no importance matrix; {AGAIN}"
            )
        self.at += count
        return self.raw[self.at - count : self.at]

    def _no_matrix(self, found: str) -> CheckpointRefused:
        return CheckpointRefused(f"{self.filename} is no importance matrix of llama.cpp's: it has {quoted(found)}")
