"""A .pt, .pth or .bin file of `torch.save`: unpickled with `weights_only=True` and never otherwise.

Wrappers that training loops put around a state dict are taken off, and each of it is said in the notes.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from webapp.engine.archive import DAMAGED as DAMAGED_ZIP
from webapp.engine.archive import members, names_in, read_member
from webapp.engine.errors import CheckpointRefused, some
from webapp.engine.lazy import Tensor, torch
from webapp.engine.plugins import Accepted
from webapp.engine.weights.memory import is_want_of_memory
from webapp.engine.weights.safetensors import MOST_TENSORS, NAMES, LazyTensor, checked_name, dtype_name

from .base import Importer, Opened, UntrustedFile

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module")
NOT_THE_MODEL = re.compile(r"optim|sched|scaler|ema|callback|loop|hyper|grad|rng", re.IGNORECASE)
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
DAMAGED = (  # what a pickle of nonsense makes the unpickler raise
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    AssertionError,
    OverflowError,
    OSError,
    struct.error,
)
PICKLE_LIMIT_BYTES = 500_000_000  # of names and shapes alone
NO_PICKLE = (ValueError, IndexError, EOFError, MemoryError, OverflowError, struct.error)
PICKLES_BEFORE_1_6 = 5  # in a row, then the numbers
FROM_SCRIPT = "upload its weights alone: torch.save(torch.jit.load(path).state_dict(), other_path)"
HOW_TO_SAVE = "save the state dict instead: torch.save(model.state_dict(), path)"


class StateDictImporter(Importer):
    name = "state_dict"
    accepts = Accepted(
        (".pt", ".pth", ".bin", ".ckpt"),
        "PyTorch state dict",
        "As torch.save(model.state_dict()) writes it, or a training checkpoint with one. Not a whole pickled module.",
    )
    priority = 40

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        if head[:2] == b"\x80\x02" or (head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5):
            return True
        return head[:4] == b"PK\x03\x04" and any(re.search(r"(^|/)data\.pkl$", name) for name in names_in(path))

    @classmethod
    def open(cls, upload: UntrustedFile) -> Opened:
        return open_state_dict(upload.path, upload.filename)


def open_state_dict(upload: Path, filename: str) -> Opened:
    """The tensors of a torch.save file, mapped from disk where its format allows. Raises CheckpointRefused."""
    with upload.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if zipped:
        _look_through(upload, filename)
    else:
        _refuse_plain_pickle(upload, filename)
    data = _load(upload, filename, mmap=zipped)
    notes: list[str] = []
    state = _without_prefixes(_unwrapped(data, filename, notes), filename, notes)
    tensors, tied = _untied(state, filename)
    total = sum(tensor.bytes for tensor in tensors.values())
    if total > 4 * upload.stat().st_size + 64 * 2**20:
        raise CheckpointRefused(
            f"{filename} is {upload.stat().st_size} bytes and its tensors claim {total}: they are views that repeat "
            "what is stored; call .contiguous() on them before saving"
        )
    return Opened(tensors=tensors, tied=tied, notes=notes)


def _look_through(upload: Path, filename: str) -> None:
    archive, found = members(upload, filename, most=2 * MOST_TENSORS)  # a file a tensor
    with archive:
        parts = {name.partition("/")[2] for name in found}
        if "constants.pkl" in parts or any(part.startswith("code/") for part in parts):
            raise CheckpointRefused(f"{filename} is a TorchScript archive, which holds code; {FROM_SCRIPT}")
        if compressed := [name for name, info in found.items() if info.compress_type != zipfile.ZIP_STORED]:
            raise CheckpointRefused(
                f"{filename} holds {compressed[0]} compressed, which torch.save never does; save it again"
            )
        if sum(info.file_size for info in found.values()) > upload.stat().st_size:
            raise CheckpointRefused(f"{filename} declares more bytes than it has: its members overlap")
        for name, info in found.items():
            if name.endswith("data.pkl"):
                _refuse_bytearray(read_member(archive, info, PICKLE_LIMIT_BYTES), filename)


def _refuse_bytearray(pickled: bytes, filename: str) -> None:
    """torch lets a pickle call it with any size."""
    if b"bytearray" in pickled:
        raise CheckpointRefused(f"{filename} holds a Python bytearray, which no state dict needs; {HOW_TO_SAVE}")


def _refuse_plain_pickle(upload: Path, filename: str) -> None:
    """The format before torch 1.6 begins with a pickled magic number; anything else that is a pickle is not ours."""
    with upload.open("rb") as file:
        head = file.read(64)
    if b"\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"[:8] not in head:
        raise CheckpointRefused(
            f"{filename} is a Python pickle that torch.save did not write, or it was cut short; "
            "save the tensors with torch.save(state_dict, path) or as safetensors"
        )
    for pickled in _pickles(upload):
        _refuse_bytearray(pickled, filename)


def _pickles(upload: Path) -> Iterator[bytes]:
    """Those of a file of torch.save, as far as they can be read."""
    with upload.open("rb") as file, suppress(*NO_PICKLE, *DAMAGED_ZIP):
        if names_in(upload):
            with zipfile.ZipFile(file) as archive:
                yield from (archive.read(name) for name in names_in(upload) if name.endswith("data.pkl"))
            return
        for _ in range(PICKLES_BEFORE_1_6):
            start = file.tell()
            for _ in pickletools.genops(file):
                pass
            end = file.tell()
            file.seek(start)
            yield file.read(end - start)


def _globals(pickled: bytes) -> list[str]:
    """What the pickle would import, read without running it, as far as it can be read."""
    found, strings = [], ["", ""]
    with suppress(*NO_PICKLE):
        for code, argument, _ in pickletools.genops(pickled):
            if code.name == "GLOBAL":
                found.append(str(argument).replace(" ", "."))
            elif code.name == "STACK_GLOBAL":
                found.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    return found


def _refuse_foreign(names: list[str], filename: str) -> None:
    from torch._weights_only_unpickler import _get_allowed_globals

    allowed = _get_allowed_globals()
    foreign = [name for name in dict.fromkeys(names) if name not in allowed]
    modules = [name for name in foreign if name.startswith("torch.nn.modules.")]
    if modules and (len(modules) > 1 or foreign[0] == modules[0] or foreign[0].startswith("__main__")):
        raise CheckpointRefused(
            f"{filename} holds a whole pickled module ({foreign[0]}), which runs code when it is read; {HOW_TO_SAVE}"
        )
    if foreign:
        more = f" and {len(foreign) - 1} other types" if len(foreign) > 1 else ""
        raise CheckpointRefused(
            f"{filename} holds a pickled object of type {foreign[0]}{more}, which runs code when it is read; "
            f"{HOW_TO_SAVE}"
        )


def _load(upload: Path, filename: str, mmap: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if upload.suffix == ".safetensors":  # torch.load goes by such a name; the bytes are a pickle's
                with upload.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(upload, map_location="cpu", weights_only=True, mmap=mmap)
    except RecursionError as error:
        raise CheckpointRefused(f"{filename} is nested too deeply to be a state dict") from error
    except (MemoryError, *DAMAGED) as error:
        if is_want_of_memory(error):
            raise CheckpointRefused(
                f"{filename} claims tensors that take more memory than a file of {upload.stat().st_size} bytes can "
                "need; save it again"
            ) from error
        for pickled in _pickles(upload):
            _refuse_foreign(_globals(pickled), filename)
        raise CheckpointRefused(
            f"{filename} cannot be read as weights: it was cut short or damaged, or torch.save did not write it; "
            "upload it again"
        ) from error


def _unwrapped(data: Any, filename: str, notes: list[str]) -> Mapping[str, Any]:
    """The innermost mapping of names to tensors."""
    for _ in range(4):
        if not isinstance(data, Mapping):
            raise CheckpointRefused(f"{filename} holds a {type(data).__name__}, not a state dict; {HOW_TO_SAVE}")
        if any(isinstance(value, Tensor) for value in data.values()):
            return data
        if "param_groups" in data and "state" in data:
            raise CheckpointRefused(f"{filename} is the state of an optimizer, not of a model; upload the model's file")
        groups = [key for key, value in data.items() if isinstance(key, str) and _has_tensors(value)]
        models = [key for key in groups if not NOT_THE_MODEL.search(key)]
        chosen = next((key for key in WRAPPERS if key in models), models[0] if len(models) == 1 else None)
        if chosen is None:
            if models:
                raise CheckpointRefused(
                    f"{filename} holds several groups of tensors: {', '.join(models[:5])}; "
                    "save the one to compress in a file of its own"
                )
            raise CheckpointRefused(f"{filename} holds no tensors of a model; {HOW_TO_SAVE}")
        notes.append(f'The weights are those under "{chosen}".')
        if dropped := [str(key) for key in data if key != chosen]:
            notes.append(f"Dropped what lay beside them: {', '.join(dropped[:8])}{' and more' * (len(dropped) > 8)}.")
        data = data[chosen]
    raise CheckpointRefused(f"{filename} is nested too deeply to be a state dict; {HOW_TO_SAVE}")


def _has_tensors(value: Any) -> bool:
    """Whether there are any in it, up to four mappings deep; each mapping is looked at once."""
    level: list[Any] = [value]
    for _ in range(4):
        mappings = {id(part): part for part in level if isinstance(part, Mapping)}
        level = [part for mapping in mappings.values() for part in mapping.values()]
        if any(isinstance(part, Tensor) for part in level):
            return True
    return False


def _without_prefixes(state: Mapping[str, Any], filename: str, notes: list[str]) -> dict[str, Tensor]:
    tensors = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
    for name in tensors:
        checked_name(name, filename)
    if ignored := [str(key) for key in state if key not in tensors]:
        notes.append(f"Ignored what is not a tensor: {some(ignored, 8)}.")
    while prefix := next((p for p in PREFIXES if tensors and all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
        notes.append(f'The prefix "{prefix}" was taken off every name.')
    return tensors


def _untied(state: Mapping[str, Tensor], filename: str) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Lazy tensors, each storage once where two names share all of it; and which name stands for which."""
    found: dict[str, LazyTensor] = {}
    tied: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        if (
            tensor.layout != torch.strided
            or tensor.is_quantized
            or tensor.is_meta
            or dtype_name(tensor.dtype) not in NAMES
        ):
            raise CheckpointRefused(
                f"{name} in {filename} is a {_described(tensor)} tensor; Pare compresses dense tensors of real numbers"
            )
        shape = tuple(tensor.shape)
        key = (tensor.data_ptr(), shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            tied[name] = seen[key]
            continue
        seen[key] = name
        found[name] = LazyTensor(shape, tensor.dtype, _loader(tensor))
    return found, tied


def _described(tensor: Tensor) -> str:
    if tensor.layout != torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    return "meta" if tensor.is_meta else dtype_name(tensor.dtype)


def _loader(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: tensor.detach().clone(memory_format=torch.contiguous_format)  # a slice leaves its storage behind
