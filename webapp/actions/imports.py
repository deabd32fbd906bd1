"""Taking in a checkpoint that nobody uploads: from a folder that the settings name, or from a hub by its name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from webapp.config import InstallationSettings
from webapp.engine.data.tasks import named
from webapp.engine.importers import importers
from webapp.engine.importers.located import CONFIG, SNAPSHOTS, display_name
from webapp.store.models import Checkpoint

from .errors import Conflict, NotFound, RequestInvalid
from .uploads import NAME_LENGTH, Inspections, version_before

MOST, MOST_FOLDERS, DEEPEST = 500, 5000, 6  # checkpoints that are listed, folders that are looked at, and how deep
OF_FOLDERS = (".safetensors", ".bin")  # weights that need their config.json beside them
NO_CHECKPOINT = (".zip", ".bin")  # files that may be one, and are mostly something else
SHARD = re.compile(r"-\d{5}-of-\d{5}\.\w+$")
REPOSITORY_NAME = re.compile(r"(?:[A-Za-z0-9_][\w.-]{0,95}/)?[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9_][\w./-]{0,199}", re.ASCII)
SKIPPED = ("blobs", "refs", "__pycache__")


@dataclass(frozen=True)
class Importable:
    """A folder of Hugging Face, or a file."""

    path: str
    name: str
    size_bytes: int


def importable(settings: InstallationSettings) -> list[Importable]:
    """What lies in the folders that are named in the settings, by name; MOST at most. Nothing in it is opened."""
    found: list[Importable] = []
    for folder in settings.import_folders:
        for one in _lying_in(folder):
            found.append(one)
            if len(found) >= MOST:
                break
    return sorted(found, key=lambda one: (one.name.lower(), one.path))


def import_path(
    path: str,
    *,
    session: Session,
    jobs: Inspections,
    settings: InstallationSettings,
    dequantize: bool = False,
    task: str | None = None,
    newer_than_id: str | None = None,
) -> Checkpoint:
    """Makes the row (state "inspecting") of what lies at `path` and stays there, and queues its inspection.

    Raises RequestInvalid for what lies in no folder that the settings name, or is reached through a link that leads out
    of them; NotFound, TaskUnfit.
    """
    use = named(task, None) if task else None
    if newer_than_id is not None:
        version_before(session, newer_than_id)
    place = _allowed(path, settings)
    shown = _named(place)[-NAME_LENGTH:]
    row = Checkpoint(size_bytes=_size(place), dequantize=dequantize, task=use, newer_than_id=newer_than_id)
    return _begun(row, shown, {"kind": "path", "path": str(place)}, session, jobs)


def import_from_hub(
    repo_id: str,
    revision: str | None,
    *,
    session: Session,
    jobs: Inspections,
    settings: InstallationSettings,
    dequantize: bool = False,
    task: str | None = None,
    newer_than_id: str | None = None,
) -> Checkpoint:
    """Makes the row of a model on the hub and queues its download, at the commit that `revision` is then ("main").

    Raises RequestInvalid, Conflict where the settings name no hub, TaskUnfit.
    """
    use = named(task, None) if task else None
    if newer_than_id is not None:
        version_before(session, newer_than_id)
    if not settings.hub_url:
        raise Conflict("Models by name are switched off here: the setting hub_url names no hub.")
    name = repository_name(repo_id)
    asked = revision or "main"
    if not REVISION.fullmatch(asked) or ".." in asked:
        raise RequestInvalid(f"{asked[:200]!r} is no branch, tag or commit.", "revision")
    row = Checkpoint(size_bytes=0, dequantize=dequantize, task=use, newer_than_id=newer_than_id)
    return _begun(row, name, {"kind": "hub", "repo_id": name, "asked": asked, "revision": None}, session, jobs)


def _begun(row: Checkpoint, name: str, source: dict[str, Any], session: Session, jobs: Inspections) -> Checkpoint:
    """Its inspection tells the digest, which is not known yet."""
    row.name, row.filename, row.digest, row.source = name, name, "", source
    session.add(row)
    session.commit()
    jobs.enqueue_inspection("checkpoint", row.id)
    return row


def repository_name(repo_id: str) -> str:
    """The name of a model on a hub as it is. Raises RequestInvalid."""
    if not REPOSITORY_NAME.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id:
        raise RequestInvalid(
            f"{repo_id[:200]!r} is no name of a model; on a hub it is the owner's name, a slash and the model's.",
            "repo_id",
        )
    return repo_id


def _allowed(path: str, settings: InstallationSettings) -> Path:
    place = Path(path)
    if "\0" in path or not place.is_absolute() or ".." in place.parts or not settings.may_import(place):
        raise RequestInvalid(
            f"The path {path[:200]!r} lies in none of the folders that the setting import_folders names. Choose one "
            "that GET /api/v1/imports lists.",
            "path",
        )
    if not (place.is_dir() or place.is_file()):
        raise NotFound(f"There is nothing at {path[:200]!r} any more.", "path")
    return place


def _lying_in(root: Path) -> Iterator[Importable]:
    endings = {ending for kind in importers().values() for ending in kind.accepts.suffixes} - set(NO_CHECKPOINT)
    for count, (folder, below, names) in enumerate(os.walk(root)):
        place = Path(folder)
        if count >= MOST_FOLDERS or len(place.parts) - len(root.parts) >= DEEPEST:
            below.clear()
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in SKIPPED)
        whole = CONFIG in names and any(name.endswith(OF_FOLDERS) for name in names)
        files = [] if whole else [name for name in sorted(names) if name.endswith(tuple(endings))]
        lying = [place] if whole else [place / name for name in files if not SHARD.search(name)]
        for one in lying:
            with suppress(OSError):  # a link to nothing, or what may not be read
                yield Importable(str(one), _named(one, root), _size(one))


def _named(place: Path, root: Path | None = None) -> str:
    """ "org/name (1a2b3c4d)" in Hugging Face's cache; else as it lies in the folder `root`."""
    told = display_name(place)
    if place.parent.name == SNAPSHOTS:
        return f"{told} ({place.name[:8]})"
    return told if root is None or place == root or told != place.name else place.relative_to(root).as_posix()


def _size(place: Path) -> int:
    files = [place / name for name in os.listdir(place)] if place.is_dir() else [place]
    return sum(file.stat().st_size for file in files if not place.is_dir() or file.name.endswith(OF_FOLDERS))
