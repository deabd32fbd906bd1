"""Taking in a checkpoint or a dataset: streamed to the file store, hashed on the way, then queued for inspection.

What comes as one body, of which nothing is left behind when it is refused or breaks off, and what has come in parts
(upload_drafts.py) both go through here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy.orm import Session

from webapp.engine.data.tasks import named
from webapp.store.files import FileStore, Readable
from webapp.store.models import Checkpoint, Dataset

from .errors import RequestInvalid, UploadEmpty

NAME_LENGTH = 200  # characters; the column's width
SPLITS = ("auto", "all")


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
) -> Checkpoint:
    """Streams the body into the file store, makes the row (state "inspecting") and queues its inspection.

    A file that has come already is moved there instead.

    With `dequantize` weights that are quantized already become floats again, instead of being refused.
    `task` is what the model is for, where its owner says so; inspection refuses one that it cannot be.

    `expected_bytes` is the Content-Length, None where the client did not say. Before any row exists it raises
    RequestInvalid, TaskUnfit, UploadEmpty, or the store's UploadTooLarge, UploadBroken or StoreFull.
    """
    shown, use = upload_name(name), named(task, None) if task else None
    digest, size_bytes = receive_body(stream, shown, files, limit_bytes, expected_bytes)
    row = Checkpoint(name=shown, filename=shown, size_bytes=size_bytes, digest=digest, dequantize=dequantize, task=use)
    session.add(row)
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


def upload_split(split: str | None) -> str:
    """Raises RequestInvalid unless it is one of SPLITS or not given."""
    if not split:
        return "auto"
    if split not in SPLITS:
        raise RequestInvalid(f"split={split[:40]!r} is not known: use {' or '.join(SPLITS)}.", "split")
    return split
