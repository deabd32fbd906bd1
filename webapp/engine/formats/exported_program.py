"""A .pt2 file of torch.export.save: the whole network, its steps included. Its steps are data, and nothing is run."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ..errors import CheckpointRefused
from ..programs.assembly import assembled, tensor_names
from ..programs.lifting import Lifted, lift
from ..programs.serialized import Draft, NotRun, drafted
from ..programs.trial import described
from ..progress import Report
from ..safetensors_file import LazyTensor
from .archive import DAMAGED
from .base import Format, Opened
from .program_archive import SAVE_AGAIN, ProgramArchive, opened_archive

LEGACY = "serialized_exported_program.json"  # of torch 2.7 and before
NAMED = 6  # tensors that a note lists


class ExportedProgram(Format):
    name: ClassVar[str] = "exported_program"

    @classmethod
    def recognises(cls, upload: Path, head: bytes) -> bool:
        if head[:4] != b"PK\x03\x04":
            return False
        try:
            with zipfile.ZipFile(upload) as archive:
                names = archive.namelist()
        except (*DAMAGED, OSError):
            return False
        return LEGACY in names or any(
            re.fullmatch(r"[^/]+/(archive_format|models/[^/]+\.json)", name) for name in names
        )

    @classmethod
    def open(cls, upload: Path, filename: str, scratch: Path, report: Report) -> Opened:
        with zipfile.ZipFile(upload) as archive:
            if LEGACY in archive.namelist():
                raise CheckpointRefused(f"{filename} was written by torch 2.7 or before; {SAVE_AGAIN} of torch 2.13")
        archived = opened_archive(upload, filename)
        report.progress(0.2, "Reading its steps")
        try:
            return _opened(archived)
        except NotRun as reason:
            because = f"The program cannot be run: it {reason}."
            return Opened(*_untied(archived), weights_only_because=because, infinite=archived.buffers)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointRefused(
                f"{filename} holds a program in a form that Pare does not know ({type(error).__name__}: {error}); "
                f"{SAVE_AGAIN} of torch 2.13"
            ) from error


def _untied(archived: ProgramArchive) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    tied: dict[str, str] = {}
    for name in archived.tensors:
        tied |= {alias: name for alias in archived.aliases[name] if name not in tied}
    return {name: tensor for name, tensor in archived.tensors.items() if name not in tied}, tied


def _opened(archived: ProgramArchive) -> Opened:
    draft = drafted(archived.content)
    missing = [name for name in draft.tensors if name not in archived.tensors]
    if missing:
        raise CheckpointRefused(f"the program needs {missing[0]}, which is not in the archive; upload it again")
    if not draft.outputs:
        raise NotRun("answers with no tensor")
    shapes = {name: archived.tensors[name].shape for name in draft.tensors}
    lifted = lift(draft, shapes, archived.aliases)
    renamed = {new: _turned(archived.tensors[old], new in lifted.turned) for new, old in lifted.renamed.items()}
    told = described(draft, lambda names: assembled(draft, lifted, renamed, names), renamed)
    wanted = tensor_names(told["program"])
    return Opened(
        tensors={name: renamed[name] for name in wanted},
        tied=dict(told["program"]["ties"]),
        metadata={"pare_architecture": json.dumps({"family": "program", **told}, separators=(",", ":"))},
        notes=_notes(draft, lifted, wanted, archived),
        infinite=archived.buffers,
    )


def _turned(tensor: LazyTensor, turned: bool) -> LazyTensor:
    if not turned:
        return tensor
    return LazyTensor(tensor.shape[::-1], tensor.dtype, lambda: tensor.load().t().contiguous())


def _notes(draft: Draft, lifted: Lifted, wanted: list[str], archived: ProgramArchive) -> list[str]:
    notes = []
    renamed = {
        old: new for new, old in lifted.renamed.items() if new in wanted and new not in (old, *archived.aliases[old])
    }
    if renamed:
        notes.append(f"The names of layers that it did not tell: {_listed(renamed)}.")
    if turned := [name for name in wanted if name in lifted.turned]:
        notes.append(f"Stored turned, as (outputs, inputs): {', '.join(turned[:NAMED])}{_more(turned)}.")
    used = {lifted.renamed[name] for name in wanted}
    used |= {alias for name in used for alias in archived.aliases[name]}
    if unused := [name for name in archived.tensors if name not in used and not name.endswith("num_batches_tracked")]:
        notes.append(f"Left out, because no step uses them: {', '.join(unused[:NAMED])}{_more(unused)}.")
    if draft.trains:
        notes.append("It was exported in training mode; its norms and dropout run here as they do in evaluation.")
    return notes


def _listed(renamed: Mapping[str, str]) -> str:
    pairs = [f"{old} is {new}" for old, new in renamed.items()]
    return f"{', '.join(pairs[:NAMED])}{_more(pairs)}"


def _more(items: list[Any]) -> str:
    return f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
