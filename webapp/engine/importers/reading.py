"""What was read of a checkpoint that stays where it is: each file's hash, and whether it kept still meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from webapp.engine.errors import CheckpointRefused
from webapp.engine.facts import SourceFacts
from webapp.engine.progress import Report, tracked


class SourcesRead:
    """To be made before anything large is read of the files, which are given by their names."""

    def __init__(self, files: Mapping[str, Path], filename: str) -> None:
        self._files, self._filename = files, filename
        self._before = {name: path.stat() for name, path in files.items()}

    def facts(self, report: Report) -> tuple[SourceFacts, ...]:
        """Raises CheckpointRefused for a file that was written to since."""
        found = []
        for name in tracked(sorted(self._files), report, "Hashing {item}"):
            with self._files[name].open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                about, before = os.fstat(file.fileno()), self._before[name]
            if (about.st_size, about.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise CheckpointRefused(
                    f"{name} of {self._filename} was written to while it was read; try again once that is done"
                )
            found.append(SourceFacts(name=name, size_bytes=about.st_size, mtime_ns=about.st_mtime_ns, digest=digest))
        return tuple(found)


def digest_of_sources(sources: Sequence[SourceFacts]) -> str:
    """The SHA-256 of the file; of several, that of the canonical JSON of {path: digest}."""
    if len(sources) == 1:
        return sources[0].digest
    named = {source.name: source.digest for source in sources}
    return hashlib.sha256(json.dumps(named, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
