"""A .pt2 file of torch.export.save: the whole network, its steps included. Its steps are data, and nothing is run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from webapp.engine.archive import names_in
from webapp.engine.errors import CheckpointRefused
from webapp.engine.importers.base import Importer, Opened
from webapp.engine.plugins import Accepted
from webapp.engine.progress import Report

LEGACY = "serialized_exported_program.json"  # of torch 2.7 and before


class ExportedProgramImporter(Importer):
    name: ClassVar[str] = "exported_program"
    accepts = Accepted(
        (".pt2",),
        "Exported program",
        "A whole module of any architecture, as torch.export.save() writes it.",
    )

    @classmethod
    def recognises(cls, upload: Path, head: bytes) -> bool:
        if head[:4] != b"PK\x03\x04":
            return False
        return any(re.fullmatch(rf"{LEGACY}|[^/]+/(archive_format|models/[^/]+\.json)", n) for n in names_in(upload))

    @classmethod
    def open(cls, upload: Path, filename: str, scratch: Path, report: Report, dequantize: bool) -> Opened:
        from .archive import SAVE_AGAIN, opened_archive
        from .running import opened_program
        from .serialized import NotRun

        if LEGACY in names_in(upload):
            raise CheckpointRefused(f"{filename} was written by torch 2.7 or before; {SAVE_AGAIN} of torch 2.13")
        archived = opened_archive(upload, filename)
        report.progress(0.2, "Reading its steps")
        try:
            return opened_program(archived)
        except NotRun as reason:
            because = f"The program cannot be run: it {reason}."
            return Opened(*archived.untied(), weights_only_because=because, infinite=archived.buffers)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointRefused(
                f"{filename} holds a program in a form that Pare does not know; {SAVE_AGAIN} of torch 2.13"
            ) from error
