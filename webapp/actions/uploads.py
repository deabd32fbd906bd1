"""Taking in a checkpoint or a dataset: streamed to the file store, hashed on the way, then queued for inspection.

Of what comes as one body nothing is left behind when it is refused or breaks off. Of what comes in parts that is kept
until it is whole: a draft is a folder of this machine, `work/uploads/ID`, whose `file` holds the bytes, and `told.json`
what they are to be.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy.orm import Session

from webapp.config import InstallationSettings
from webapp.engine.data.tasks import named
from webapp.store.digests import maker_of
from webapp.store.errors import UploadTooLarge
from webapp.store.files import LOOK_EVERY_BYTES, FileStore, Readable
from webapp.store.models import Checkpoint, Dataset, new_id
from webapp.store.space import UPLOADS, as_store_full, remove_idle_folders, require_free

from .errors import Busy, NotFound, RequestInvalid, UploadEmpty

NAME_LENGTH = 200  # characters; the column's width
SPLITS = ("auto", "all")
CHUNK_BYTES = 1 << 16  # a connection that is reset loses less than this of what it sent


class Inspections(Protocol):
    """The part of the job client that uploads need."""

    def enqueue_inspection(self, kind: Any, id: str) -> Any: ...


def receive_checkpoint(
    stream: Readable | Path,
    name: str | None,
    *,
    session: Session,
    files: FileStore,
    jobs: Inspections,
    limit_bytes: int,
    expected_bytes: int | None = None,
    dequantize: bool = False,
    task: str | None = None,
    newer_than_id: str | None = None,
) -> Checkpoint:
    """Streams the body into the file store, makes the row (state "inspecting") and queues its inspection.

    A file that has come already is moved there instead.

    With `dequantize` weights that are quantized already become floats again, instead of being refused.
    `task` is what the model is for, where its owner says so; inspection refuses one that it cannot be.

    `newer_than_id` is a checkpoint of which it is the next version. `expected_bytes` is the Content-Length, None where
    the client did not say. Before any row exists it raises NotFound, RequestInvalid, TaskUnfit, UploadEmpty, or the
    store's UploadTooLarge, UploadBroken or StoreFull.
    """
    shown, use = upload_name(name), named(task, None) if task else None
    if newer_than_id is not None:
        version_before(session, newer_than_id)
    digest, size_bytes = receive_body(stream, shown, files, limit_bytes, expected_bytes)
    row = Checkpoint(name=shown, filename=shown, size_bytes=size_bytes, digest=digest, dequantize=dequantize, task=use)
    row.newer_than_id = newer_than_id
    session.add(row)
    session.flush()
    row.delivered_by_id = maker_of(session, row)
    session.commit()
    jobs.enqueue_inspection("checkpoint", row.id)
    return row


def receive_dataset(
    stream: Readable | Path,
    name: str | None,
    split: str | None,
    *,
    session: Session,
    files: FileStore,
    jobs: Inspections,
    limit_bytes: int,
    expected_bytes: int | None = None,
) -> Dataset:
    """As `receive_checkpoint`; `split` is "auto" (70/30, or as the .npz says) or "all" (everything evaluates)."""
    shown, split = upload_name(name), upload_split(split)
    digest, size_bytes = receive_body(stream, shown, files, limit_bytes, expected_bytes)
    row = Dataset(name=shown, filename=shown, size_bytes=size_bytes, digest=digest, split=split)
    session.add(row)
    session.commit()
    jobs.enqueue_inspection("dataset", row.id)
    return row


def receive_body(
    stream: Readable | Path, name: str, files: FileStore, limit_bytes: int, expected_bytes: int | None
) -> tuple[str, int]:
    """The digest and the size of what came; never an empty file."""
    empty = UploadEmpty(f"{name} has no bytes. Send the file as the request's body.")
    if expected_bytes == 0:
        raise empty
    if isinstance(stream, Path):
        size_bytes = stream.stat().st_size
        return files.put(stream, move=True), size_bytes
    digest, size_bytes = files.receive(stream, limit_bytes, expected_bytes)
    if size_bytes == 0:
        files.delete(digest)
        raise empty
    return digest, size_bytes


def upload_name(name: str | None) -> str:
    """The file's name as it will be shown: the last part of a path, without control characters.

    Raises RequestInvalid (field "name") where it is missing, empty or longer than 200 characters.
    """
    if name is None:
        raise RequestInvalid("The file's name is missing: add ?name=… to the address.", "name")
    shown = re.split(r"[/\\]", name)[-1]
    shown = "".join(c for c in shown if c.isprintable()).strip()
    if not shown or shown in {".", ".."}:
        raise RequestInvalid(f"The name {name[:80]!r} is empty: name the file, such as model.safetensors.", "name")
    if len(shown) > NAME_LENGTH:
        raise RequestInvalid(
            f"The name has {len(shown)} characters; at most {NAME_LENGTH} are kept. Shorten it.", "name"
        )
    return shown


def version_before(session: Session, id_: str) -> Checkpoint:
    """The checkpoint that a newer one is to follow. Raises NotFound."""
    found = session.get(Checkpoint, id_) if id_.isascii() and id_.isalnum() else None
    if found is None:
        raise NotFound(f"There is no checkpoint {id_[:40]}. It may have been deleted.", "newer_than_id")
    return found


def upload_split(split: str | None) -> str:
    """Raises RequestInvalid unless it is one of SPLITS or not given."""
    if not split:
        return "auto"
    if split not in SPLITS:
        raise RequestInvalid(f"split={split[:40]!r} is not known: use {' or '.join(SPLITS)}.", "split")
    return split


@dataclass(frozen=True)
class AnnouncedUpload:
    kind: str  # "checkpoints", "datasets", or "files" of a checkpoint
    asked: dict[str, Any]  # the query of its upload
    size_bytes: int
    row_id: str | None = None  # of the checkpoint or dataset that it became; the digest of a file of several


@dataclass(frozen=True)
class UploadDraft:
    id: str
    folder: Path
    told: AnnouncedUpload

    @property
    def file(self) -> Path:
        return self.folder / "file"

    @property
    def offset(self) -> int:
        """How many bytes have come."""
        return self.told.size_bytes if self.told.row_id else self.file.stat().st_size

    def append(self, stream: Readable, announced_bytes: int | None, min_free_bytes: int) -> None:
        """What came is kept, however it ends. Raises RequestInvalid for more than the file has left, StoreFull."""
        begun = came = self.offset
        if announced_bytes is not None and begun + announced_bytes > self.told.size_bytes:
            raise RequestInvalid(self._too_long(begun))
        require_free(self.folder, announced_bytes or 0, min_free_bytes)
        with as_store_full(self.folder), self.file.open("ab") as file:
            while chunk := stream.read(CHUNK_BYTES):
                came += len(chunk)
                if came > self.told.size_bytes:
                    file.truncate(begun)
                    raise RequestInvalid(self._too_long(begun))
                file.write(chunk)
                if came % LOOK_EVERY_BYTES < len(chunk):
                    require_free(self.folder, 0, min_free_bytes)

    def became(self, row_id: str) -> UploadDraft:
        """Its bytes are in the file store; what is left tells so to a client that missed the answer."""
        return _write(replace(self, told=replace(self.told, row_id=row_id)))

    def _too_long(self, offset: int) -> str:
        return f"The upload was begun with {self.told.size_bytes} bytes and has {offset}; more than the rest was sent."


def begin(settings: InstallationSettings, kind: str, asked: dict[str, Any], size_bytes: int) -> UploadDraft:
    """Raises UploadEmpty, UploadTooLarge, StoreFull."""
    if size_bytes == 0:
        raise UploadEmpty("A file of no bytes cannot be uploaded. Upload-Length is the size of the file.")
    if size_bytes > settings.max_upload_bytes:
        raise UploadTooLarge(
            f"The file has {size_bytes} bytes; at most {settings.max_upload_bytes} can be uploaded (max_upload_bytes)."
        )
    remove_idle_folders(settings.work / UPLOADS, settings.sweep_age_seconds)
    id = new_id()
    folder = settings.work / UPLOADS / id
    with as_store_full(settings.work):
        folder.parent.mkdir(parents=True, exist_ok=True)
        require_free(folder.parent, size_bytes, settings.min_free_bytes)
        folder.mkdir(mode=0o700)
        (folder / "file").touch()
        return _write(UploadDraft(id, folder, AnnouncedUpload(kind, asked, size_bytes)))


def find(settings: InstallationSettings, id: str) -> UploadDraft:
    """Raises NotFound."""
    folder = settings.work / UPLOADS / id
    try:
        if re.fullmatch("[2-9a-z]{12}", id):
            return UploadDraft(id, folder, AnnouncedUpload(**json.loads((folder / "told.json").read_text())))
    except FileNotFoundError:
        pass
    raise NotFound(f"There is no upload {id[:40]!r}. It was given up or left alone for too long; begin it again.")


@contextmanager
def held(settings: InstallationSettings, id: str) -> Iterator[UploadDraft]:
    """The draft, for one writer at a time. Raises NotFound, Busy."""
    descriptor = os.open(find(settings, id).folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy("Another connection still sends this upload. Try again in a moment.") from error
        yield find(settings, id)  # as it is now: the writer before may have ended it
    finally:
        os.close(descriptor)


def _write(draft: UploadDraft) -> UploadDraft:
    unfinished = draft.folder / "told.draft"
    unfinished.write_text(json.dumps(asdict(draft.told)))
    unfinished.replace(draft.folder / "told.json")
    return draft
