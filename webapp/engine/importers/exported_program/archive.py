"""The members of an archive that torch.export.save wrote, looked through before any of it is read as a program.

`torch.export.load` unpickles: weights and constants that say so, custom objects, and the example inputs. Here pickles
are refused or, the example inputs, not opened; weights are read as the raw numbers that they are.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webapp.engine.archive import damage_named, members, read_member
from webapp.engine.errors import CheckpointRefused, json_fault, quoted
from webapp.engine.lazy import torch
from webapp.engine.weights.safetensors import MOST_TENSORS, NAMES, LazyTensor, dtype_of

from .serialized import SCALARS, STRIDED

JSON_LIMIT_BYTES = 100_000_000
SCHEMA = 8  # the major version of torch/_export/serde/schema.py that is known here
PICKLES = ("custom_obj_", "opaque_obj_")  # what constants of these names hold
SAVE_AGAIN = "export the module again and save it with torch.export.save"


@dataclass
class ProgramArchive:
    """`content` is the program's JSON; tensors are not in memory yet, each storage under the first of its names."""

    content: dict[str, Any]
    tensors: dict[str, LazyTensor]
    aliases: dict[str, list[str]] = field(default_factory=dict)
    buffers: frozenset[str] = frozenset()
    left_out: int = 0  # outputs of the file that the JSON does not have
    inputs: list[str] = field(default_factory=list)  # what they are called, where the JSON does not tell

    def untied(self) -> tuple[dict[str, LazyTensor], dict[str, str]]:
        """(tensors, each once; alias -> the name that it is under)."""
        tied: dict[str, str] = {}
        for name in self.tensors:
            tied |= {alias: name for alias in self.aliases[name] if name not in tied}
        return {name: tensor for name, tensor in self.tensors.items() if name not in tied}, tied


def opened_archive(upload: Path, filename: str) -> ProgramArchive:
    """Raises CheckpointRefused for an archive that holds pickles or code, or lies about its sizes."""
    archive, found = members(upload, filename, most=2 * MOST_TENSORS)
    with archive:
        inside = {name.partition("/")[2]: info for name, info in found.items()}
        _refuse_other_kinds(inside, filename)
        if sum(info.file_size for info in found.values()) > upload.stat().st_size:
            raise CheckpointRefused(f"{filename} declares more bytes than it has: its members overlap")
        (program,) = [name for name in inside if re.fullmatch(r"models/[^/]+\.json", name)]
        model = program.removeprefix("models/").removesuffix(".json")
        content = _json(archive, inside[program], filename)
        version = content.get("schema_version")
        about = version.get("major", "none") if isinstance(version, dict) else version
        if about != SCHEMA:
            raise CheckpointRefused(
                f"{filename} has version {quoted(about)} of the export format; Pare reads {SCHEMA}: "
                f"{SAVE_AGAIN} of torch 2.13"
            )
        try:
            payloads = _payloads(archive, inside, model, filename)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointRefused(
                f"{filename} lists its tensors in a form that Pare does not know; {SAVE_AGAIN} of torch 2.13"
            ) from error
    return _tensors(upload, payloads, content, filename)


def _refuse_other_kinds(inside: Mapping[str, zipfile.ZipInfo], filename: str) -> None:
    if any(name.startswith("data/aotinductor/") or name.endswith((".so", ".cubin")) for name in inside):
        raise CheckpointRefused(f"{filename} holds compiled code, which is never run; {SAVE_AGAIN}")
    programs = [name for name in inside if re.fullmatch(r"models/[^/]+\.json", name)]
    if len(programs) != 1:
        raise CheckpointRefused(f"{filename} holds {len(programs)} exported programs; Pare takes a file with one")
    if legacy := [name for name in inside if re.fullmatch(r"data/(weights|constants)/[^/]+\.(pt|pkl)", name)]:
        raise CheckpointRefused(
            f"{filename} keeps {legacy[0]} as a pickle, as older versions of torch did; {SAVE_AGAIN} of torch 2.13"
        )


def _json(archive: zipfile.ZipFile, info: zipfile.ZipInfo, filename: str) -> dict[str, Any]:
    try:
        value = json.loads(read_member(archive, info, JSON_LIMIT_BYTES))
    except (ValueError, RecursionError) as error:
        raise CheckpointRefused(f"{info.filename} in {filename} is {json_fault(error)}") from error
    if not isinstance(value, dict):
        raise CheckpointRefused(f"{info.filename} in {filename} must hold a JSON object")
    return value


@dataclass(frozen=True)
class _Payload:
    """One tensor in a member of raw numbers; sizes, strides and offset in elements."""

    member: zipfile.ZipInfo
    dtype: torch.dtype
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    trained: bool

    def check(self, name: str, filename: str) -> None:
        if self.member.compress_type != zipfile.ZIP_STORED:
            raise CheckpointRefused(f"{filename} holds {name} compressed, which torch.export.save never does")
        if self.member.file_size % self.dtype.itemsize:
            raise CheckpointRefused(f"{name} in {filename} takes {self.member.file_size} bytes: part of a number")
        reach = self.offset + sum((size - 1) * stride for size, stride in zip(self.sizes, self.strides, strict=True))
        negative = min((*self.sizes, *self.strides, self.offset)) < 0
        if negative or (0 not in self.sizes and reach >= self.member.file_size // self.dtype.itemsize):
            raise CheckpointRefused(
                f"{name} in {filename} claims the shape {list(self.sizes)}; its {self.member.file_size} bytes hold less"
            )

    def read(self, upload: Path) -> torch.Tensor:
        if 0 in self.sizes:
            return torch.empty(self.sizes, dtype=self.dtype)
        with damage_named(self.member.filename), zipfile.ZipFile(upload) as archive:
            raw = bytearray(archive.read(self.member))
        flat = torch.frombuffer(raw, dtype=torch.uint8).view(self.dtype)
        return flat.as_strided(self.sizes, self.strides, self.offset).contiguous().clone()


def _payloads(
    archive: zipfile.ZipFile, inside: Mapping[str, zipfile.ZipInfo], model: str, filename: str
) -> dict[str, _Payload]:
    found: dict[str, _Payload] = {}
    for folder in ("weights", "constants"):
        listing = f"data/{folder}/{model}_{folder}_config.json"
        if listing not in inside:
            raise CheckpointRefused(f"{filename} lacks {listing}: it was cut short or damaged; upload it again")
        for name, about in _json(archive, inside[listing], filename)["config"].items():
            path = about["path_name"]
            if about["use_pickle"] or path.startswith(PICKLES) or about["tensor_meta"] is None:
                raise CheckpointRefused(
                    f"{filename} holds {name} as a pickle, which runs code when it is read; {SAVE_AGAIN} "
                    "with plain tensors only"
                )
            if f"data/{folder}/{path}" not in inside:
                raise CheckpointRefused(f"{filename} lacks data/{folder}/{path}, where {name} should be")
            meta = about["tensor_meta"]
            dtype = SCALARS.get(meta["dtype"], "")
            if dtype not in NAMES or meta["layout"] != STRIDED:
                raise CheckpointRefused(
                    f"{name} in {filename} is of a kind that Pare does not read (dense real numbers)"
                )
            payload = _Payload(inside[f"data/{folder}/{path}"], dtype_of(dtype), *_extent(meta), about["is_param"])
            payload.check(name, filename)
            found[name] = payload
    return found


def _extent(meta: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    sizes, strides = ([int(size["as_int"]) for size in meta[key]] for key in ("sizes", "strides"))
    return tuple(sizes), tuple(strides), int(meta["storage_offset"]["as_int"])


def _reader(payload: _Payload, upload: Path) -> Callable[[], torch.Tensor]:
    return lambda: payload.read(upload)


def _tensors(upload: Path, payloads: Mapping[str, _Payload], content: dict[str, Any], filename: str) -> ProgramArchive:
    claimed = sum(math.prod(payload.sizes) * payload.dtype.itemsize for payload in payloads.values())
    if claimed > 4 * upload.stat().st_size + 64 * 2**20:
        raise CheckpointRefused(
            f"{filename} is {upload.stat().st_size} bytes and its tensors claim {claimed}: they repeat what is stored"
        )
    made = ProgramArchive(content, {}, buffers=frozenset(name for name, held in payloads.items() if not held.trained))
    names: dict[_Payload, list[str]] = {}
    for name, payload in payloads.items():
        names.setdefault(payload, []).append(name)
    for name, payload in payloads.items():
        made.tensors[name] = LazyTensor(payload.sizes, payload.dtype, _reader(payload, upload))
        made.aliases[name] = [other for other in names[payload] if other != name]
    return made
