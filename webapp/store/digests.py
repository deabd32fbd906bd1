"""Which files are named by a row, and sweeping away the others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .files import FileStore
from .models import Artifact, Checkpoint, Dataset, Run, Stage, UploadState


def digest_of_files(files: Mapping[str, Any]) -> str:
    """One SHA-256 for {path: {"digest"}}: of the canonical JSON of {path: digest}."""
    named = {path: entry["digest"] for path, entry in files.items()}
    return hashlib.sha256(json.dumps(named, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def normalised_digest(upload: Checkpoint | Dataset) -> str:
    """Of what is read, so that two uploads of the same content, for the same task, share what is computed of them."""
    task = ((upload.facts or {}).get("architecture") or {}).get("task") if isinstance(upload, Checkpoint) else None
    in_place = upload.in_place if isinstance(upload, Checkpoint) else {}
    return f"{digest_of_files({**upload.files, **in_place})} {task or ''}".strip()


def maker_of(session: Session, checkpoint: Checkpoint, but: Collection[str] = ()) -> str | None:
    """The id of the first run, `but` some, that delivered what was uploaded, or the weights in it. Not one of it."""
    held = [checkpoint.files, (checkpoint.source or {}).get("files", {})]
    digests = {checkpoint.digest} | {entry["digest"] for files in held for entry in (files or {}).values()}
    asked = (
        select(Run.id)
        .join(Artifact, Artifact.run_id == Run.id)
        .where(Artifact.digest.in_(digests - {""}), Artifact.format != "companion")
        .where(Run.checkpoint_id != checkpoint.id, Run.id.not_in(but))
        .order_by(Run.created_at, Run.id)
    )
    return session.scalar(asked.limit(1))


def named_digests(session: Session) -> set[str]:
    """The digests of all files that a row refers to; of uploads the raw bytes only until they are inspected."""
    named: set[str] = {digest for digest in session.scalars(select(Artifact.digest)) if digest}
    for kind in (Checkpoint, Dataset):
        named.update(session.scalars(select(kind.digest).where(kind.state == UploadState.INSPECTING)))
        for files in session.scalars(select(kind.files)):
            named.update(entry["digest"] for entry in files.values())
    uploaded = select(Checkpoint.source).where(Checkpoint.state == UploadState.INSPECTING)
    for source in session.scalars(uploaded):
        named.update(entry["digest"] for entry in (source or {}).get("files", {}).values())
    for files in session.scalars(select(Stage.files)):
        named.update(entry["digest"] for entry in files.values())
    return named


def sweep(session: Session, files: FileStore, older_than_seconds: float) -> int:
    """Deletes the files that no row names and that are older than that; returns how many."""
    return files.sweep(named_digests(session), older_than_seconds)


def forget_upload(session: Session, files: FileStore, upload: Checkpoint | Dataset) -> None:
    """Deletes the raw bytes of an inspected upload, unless a row still needs them or they just came again."""
    digests = {upload.digest}
    if isinstance(upload, Checkpoint) and upload.source is not None:
        digests = {entry["digest"] for entry in upload.source.get("files", {}).values()}
    for digest in digests and digests - named_digests(session):
        if files.exists(digest) and files.modified(digest) <= upload.created_at:
            files.delete(digest)
