"""A checkpoint of several files: each is uploaded like any other, and once all are there they are put together."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import PurePosixPath

from sqlalchemy.orm import Session

from webapp.config import InstallationSettings
from webapp.engine.data.tasks import named
from webapp.engine.importers.gguf.importance import NAMED
from webapp.engine.importers.huggingface import KEPT
from webapp.engine.importers.huggingface.files import may_matter
from webapp.store.digests import digest_of_files, maker_of
from webapp.store.errors import UploadTooLarge
from webapp.store.files import FileStore
from webapp.store.models import Checkpoint

from .errors import Conflict, RequestInvalid
from .uploads import Inspections, find, upload_name, version_before

FILES = "files"  # the kind of an upload that becomes a part of a checkpoint
MOST_FILES = 2000
CONFIG = "config.json"
GGUF = ".gguf"


def file_name(name: str) -> str:
    """The path in its folder of a file that can be part of a checkpoint. Raises RequestInvalid."""
    pure = PurePosixPath(name)
    plain = name.isprintable() and "\\" not in name and str(pure) == name and ".." not in pure.parts
    top = len(pure.parts) == 1 and (may_matter(name) or name.endswith(GGUF))
    if not plain or len(name) > 200 or not (name in KEPT or top):
        raise RequestInvalid(
            f"{name[:80]!r} is no file of a Hugging Face folder that is read: send config.json, the weights, their "
            "index, the tokenizer's files and an imatrix, by their names in the folder.",
            "name",
        )
    return name


def _gguf_alone(uploads: Mapping[str, str]) -> bool:
    """Whether they are one GGUF file and its importance matrix."""
    rest = [name for name in uploads if NAMED.fullmatch(name) is None]
    return len(rest) == 1 and rest[0].endswith(GGUF)


def receive_folder(
    name: str,
    uploads: Mapping[str, str],
    *,
    session: Session,
    files: FileStore,
    jobs: Inspections,
    settings: InstallationSettings,
    dequantize: bool = False,
    task: str | None = None,
    newer_than_id: str | None = None,
) -> Checkpoint:
    """Makes the row of uploads that are whole, {path in the folder: the upload's id}, and queues its inspection.

    Raises RequestInvalid, NotFound, Conflict for one that is not whole, or not there any more; UploadTooLarge and
    TaskUnfit.
    """
    shown, use = upload_name(name), named(task, None) if task else None
    if newer_than_id is not None:
        version_before(session, newer_than_id)
    if CONFIG not in uploads and not _gguf_alone(uploads):
        raise RequestInvalid(f"There is no {CONFIG} among the files, which says what model they are.", "files")
    if len(uploads) > MOST_FILES:
        raise RequestInvalid(f"There are {len(uploads)} files; a checkpoint has at most {MOST_FILES}.", "files")
    drafts = {file_name(path): find(settings, id) for path, id in uploads.items()}
    parts = {}
    for path, draft in drafts.items():
        digest = draft.told.row_id if draft.told.kind == FILES else None
        if digest is None:
            raise Conflict(f"The upload of {path} is not whole yet; send the rest of it.", "files")
        if not files.exists(digest):
            raise Conflict(f"{path} is not kept any more: it was left alone for too long. Send it again.", "files")
        parts[path] = {"digest": digest, "size_bytes": draft.told.size_bytes}
    size_bytes = sum(part["size_bytes"] for part in parts.values())
    if size_bytes > settings.max_upload_bytes:
        raise UploadTooLarge(
            f"The files have {size_bytes} bytes; at most {settings.max_upload_bytes} can be uploaded "
            "(max_upload_bytes)."
        )
    row = Checkpoint(
        name=shown,
        filename=shown,
        size_bytes=size_bytes,
        digest=digest_of_files(parts),
        dequantize=dequantize,
        task=use,
        source={"kind": FILES, "files": parts},
    )
    row.newer_than_id = newer_than_id
    session.add(row)
    session.flush()
    row.delivered_by_id = maker_of(session, row)
    session.commit()
    jobs.enqueue_inspection("checkpoint", row.id)
    for draft in drafts.values():
        shutil.rmtree(draft.folder, ignore_errors=True)
    return row
