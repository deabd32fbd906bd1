"""A .pt2 file of torch.export.save: the whole network, its steps included. Its steps are data, and nothing is run."""

from __future__ import annotations

import re
from pathlib import Path

from webapp.engine.archive import names_in
from webapp.engine.errors import CheckpointRefused
from webapp.engine.importers.base import Importer, Opened, UntrustedFile
from webapp.engine.plugins import Accepted

LEGACY = "serialized_exported_program.json"  # of torch 2.7 and before


class ExportedProgramImporter(Importer):
    name = "exported_program"
    accepts = Accepted(
        (".pt2",),
        "Exported program",
        "A whole module of any architecture, as torch.export.save() writes it.",
    )
    priority = 30
    graph = True

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        if head[:4] != b"PK\x03\x04":
            return False
        return any(re.fullmatch(rf"{LEGACY}|[^/]+/(archive_format|models/[^/]+\.json)", n) for n in names_in(path))

    @classmethod
    def open(cls, upload: UntrustedFile) -> Opened:
        from .archive import SAVE_AGAIN, opened_archive
        from .running import opened_program
        from .serialized import NotRun

        filename = upload.filename
        if LEGACY in names_in(upload.path):
            raise CheckpointRefused(f"{filename} was written by torch 2.7 or before; {SAVE_AGAIN} of torch 2.13")
        archived = opened_archive(upload.path, filename)
        upload.report.progress(0.2, "Reading its steps")
        try:
            return opened_program(archived)
        except NotRun as reason:
            because = f"The program cannot be run: it {reason}."
            return Opened(*archived.untied(), weights_only_because=because, infinite=archived.buffers)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointRefused(
                f"{filename} holds a program in a form that Pare does not know; {SAVE_AGAIN} of torch 2.13"
            ) from error
