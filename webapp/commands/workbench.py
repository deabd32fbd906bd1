"""Compression without a server: the same stages in the same child processes, in a working folder of its own."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webapp.jobs.child import ChildSupervisor, Tell
from webapp.jobs.examinations import look_at_structure, try_formats

Files = dict[str, dict[str, Any]]


@dataclass
class Workbench:
    """`folder` is emptied at the end; each piece of work gets a folder of its own in it."""

    folder: Path
    supervisor: ChildSupervisor

    def work(self, name: str, job: dict[str, Any], tell: Tell) -> tuple[Path, Any]:
        """(where its files lie, what it returned). Raises ChildFailed, ChildDied or OutOfMemory."""
        place = self.folder / name
        place.mkdir()
        output = place / "output"
        return output, self.supervisor.run({**job, "output": str(output)}, place, tell, lambda: False)

    def upload(self, kind: str, path: Path, tell: Tell, **more: Any) -> dict[str, Any]:
        """A checkpoint or a dataset after inspection, as stages want it; see `look_at_structure`."""
        job = {"task": f"inspect_{kind}", "upload": str(path.resolve()), "filename": path.name, **more}
        number = sum(1 for _ in self.folder.iterdir())  # two uploads may have one name
        folder, facts = self.work(f"{kind}-{number}", job, tell)
        return {"folder": str(folder), "facts": facts, "name": path.stem, "digest": digest_of(path)}

    def look_at_structure(self, checkpoint: dict[str, Any], tell: Tell) -> None:
        """Puts what of an uploaded checkpoint can be cut among its facts, as recipes want it."""
        place = self.folder / "structure"
        place.mkdir()
        checkpoint["facts"] = look_at_structure(self.supervisor, checkpoint["facts"], place, tell, lambda: False)

    def try_formats(self, checkpoint: dict[str, Any], tell: Tell) -> None:
        """Puts which formats it cannot be written in among the facts of an uploaded checkpoint."""
        place = self.folder / "formats"
        place.mkdir()
        found = try_formats(
            self.supervisor, checkpoint["facts"], Path(checkpoint["folder"]), place, tell, lambda: False
        )
        checkpoint["facts"] = found


@contextmanager
def workbench(parent: Path) -> Iterator[Workbench]:
    """A working folder beside the result, so that files are renamed into place; gone at the end, whatever happens."""
    folder = parent / f".pare-{os.getpid()}"
    folder.mkdir()
    supervisor = ChildSupervisor(threads=os.cpu_count() or 1)
    try:
        yield Workbench(folder, supervisor)
    finally:
        supervisor.forks.close()
        shutil.rmtree(folder, ignore_errors=True)


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_in(folder: Path) -> Files:
    """{path: {"digest", "size_bytes"}} of every file below a folder, as the store describes what it keeps."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): {"digest": digest_of(path), "size_bytes": path.stat().st_size} for path in found
    }
