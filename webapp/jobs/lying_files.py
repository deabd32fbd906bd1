"""Checkpoints whose files stay where they lie: what is noted of each, whether it is still the same, and links to it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from webapp.engine.weights.originals import IN_PLACE
from webapp.store.database import writing
from webapp.store.files import digest_of
from webapp.store.models import Checkpoint

from .errors import SourceChanged
from .workplace import Workplace

log = logging.getLogger(__name__)

AGAIN = "Import it again: what was computed before is of the file as it was."


def path_of(place: Workplace, checkpoint: Checkpoint) -> Path:
    """Where a checkpoint lies that was named by its path. Raises SourceChanged where it may not be read, or is gone."""
    assert checkpoint.source is not None
    path = Path(checkpoint.source["path"])
    if not place.settings.may_import(path):
        raise SourceChanged(f"{checkpoint.name} lies in none of the folders that the setting import_folders names.")
    if not path.exists():
        raise SourceChanged(f"{checkpoint.name} is not where it was any more, or not on this worker's machine.")
    return path


def noted(place: Workplace, output: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Takes the links to weights out of an inspection's output: {path: {"path", "digest", "size_bytes", "mtime_ns"}}.

    Raises SourceChanged for one that leads out of import_folders.
    """
    sources = {source["name"]: source for source in facts["sources"]}
    found: dict[str, Any] = {}
    for link in linked(output):
        target = link.resolve()
        if not place.settings.may_import(target):
            raise SourceChanged(
                f"{link.name} leads out of the folders that the setting import_folders names. Name the folder that "
                "holds the file itself, such as the whole of Hugging Face's cache."
            )
        about = {name: sources[link.name][name] for name in ("digest", "size_bytes", "mtime_ns")}
        found[f"{IN_PLACE}/{link.name}"] = {"path": str(target), **about}
        link.unlink()
    return found


def stored(place: Workplace, output: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """Moves what is linked in an inspection's output into the store: {path: {"digest", "size_bytes"}}.

    `known` are those that are there already, {name: {"digest", "size_bytes"}}.
    """
    found: dict[str, Any] = {}
    for link in linked(output):
        target = link.resolve()
        size_bytes = target.stat().st_size
        about = known.get(link.name) or {"digest": place.files.put(target, move=True), "size_bytes": size_bytes}
        found[f"{IN_PLACE}/{link.name}"] = about
        link.unlink()
    return found


def linked(output: Path) -> list[Path]:
    """The links to weights in an inspected checkpoint's folder."""
    return [path for path in sorted((output / IN_PLACE).glob("*")) if path.is_symlink()]


def require_unchanged(place: Workplace, checkpoint: Checkpoint) -> None:
    """Raises SourceChanged. A file is hashed where its size or the time of its last change is another than before."""
    touched = {}
    for name, about in checkpoint.in_place.items():
        path = Path(about["path"])
        what = f"{name.removeprefix(f'{IN_PLACE}/')} of {checkpoint.name}"
        if not place.settings.may_import(path):
            raise SourceChanged(f"{what} lies in none of the folders that the setting import_folders names any more.")
        try:
            now = path.stat()
            if (now.st_size, now.st_mtime_ns) == (about["size_bytes"], about["mtime_ns"]):
                continue
            if now.st_size != about["size_bytes"]:
                raise SourceChanged(
                    f"{what} was changed since it was taken in: it has {now.st_size} bytes and had "
                    f"{about['size_bytes']}. {AGAIN}"
                )
            if digest_of(path) != about["digest"]:
                raise SourceChanged(f"{what} was changed since it was taken in: its SHA-256 is another. {AGAIN}")
        except OSError as error:
            log.error("%s of the checkpoint %s cannot be read: %s", path, checkpoint.id, error)
            raise SourceChanged(
                f"{what} cannot be read where it was ({error.strerror}). Put it back, or on this worker's machine too."
            ) from error
        touched[name] = about | {"mtime_ns": now.st_mtime_ns}
    if touched:
        _note(place, checkpoint, touched)


def link_in_place(checkpoint: Checkpoint, folder: Path) -> None:
    for name, about in checkpoint.in_place.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(about["path"])


def _note(place: Workplace, checkpoint: Checkpoint, touched: Mapping[str, Any]) -> None:
    """The same bytes under another time: not to be hashed again."""
    checkpoint.in_place = {**checkpoint.in_place, **touched}
    with writing(place.sessions) as session:
        row = session.get(Checkpoint, checkpoint.id, with_for_update=True)
        if row is not None:
            row.in_place = {**row.in_place, **touched}
