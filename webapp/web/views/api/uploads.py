"""Uploads in parts, which go on where they broke off. The headers are those of draft-ietf-httpbis-resumable-upload."""

from __future__ import annotations

import shutil

from flask import Response, after_this_request, request

from webapp.actions import uploads
from webapp.actions.errors import Conflict, RequestInvalid
from webapp.actions.folder_uploads import FILES
from webapp.actions.uploads import UploadDraft, upload_name, upload_split
from webapp.engine.data.tasks import named
from webapp.web.extensions import db, services

from . import schemas
from .checkpoints import receive_checkpoint
from .datasets import receive_dataset
from .endpoints import Body, body_length, endpoint, require_bare_body


@endpoint(
    "POST",
    "/checkpoints",
    "Begin to upload a checkpoint in parts: PATCH its upload with them. Upload-Length is the file's size in bytes",
    status=201,
    headers=("Upload-Length",),
    errors=(404, 413, 422, 507),
    example="-H 'Upload-Length: 44000' '?name=model.safetensors'",
)
def begin_checkpoint(query: schemas.CheckpointQuery) -> schemas.DraftAnswer:
    upload_name(query.name)
    if query.task:
        named(query.task, None)
    if query.newer_than_id is not None:
        uploads.version_before(db.session, query.newer_than_id)
    return begun("checkpoints", query)


@endpoint(
    "POST",
    "/datasets",
    "Begin to upload a dataset in parts: PATCH its upload with them. Upload-Length is the file's size in bytes",
    status=201,
    headers=("Upload-Length",),
    errors=(413, 507),
    example="-H 'Upload-Length: 44000' '?name=digits.npz'",
)
def begin_dataset(query: schemas.DatasetQuery) -> schemas.DraftAnswer:
    upload_name(query.name)
    upload_split(query.split)
    return begun("datasets", query)


@endpoint("GET", "/uploads/<id>", "How much of an upload has come, and what became of it")
def get_upload(id: str) -> schemas.DraftAnswer:
    return told(uploads.find(services().settings, id))


@endpoint(
    "PATCH",
    "/uploads/<id>",
    "Go on with an upload: the body is the file from Upload-Offset on. What came of it is kept when it breaks off",
    raw_body=True,
    headers=("Upload-Offset",),
    errors=(408, 409, 415, 503, 507),
    example="-H 'Upload-Offset: 0' -T model.safetensors",
)
def continue_upload(id: str) -> schemas.DraftAnswer:
    require_bare_body()
    offset, found = number("Upload-Offset"), services()
    with uploads.held(found.settings, id) as draft:
        if offset != draft.offset:
            told(draft)
            raise Conflict(f"The upload goes on at byte {draft.offset}, not at {offset}.", "Upload-Offset")
        if draft.told.row_id is None:
            draft.append(Body(), body_length(), found.settings.min_free_bytes)
            if draft.offset == draft.told.size_bytes:
                draft = draft.became(kept(draft))
        return told(draft)


@endpoint("DELETE", "/uploads/<id>", "Give up an upload: nothing of it is kept", status=204, errors=(503,))
def delete_upload(id: str) -> None:
    with uploads.held(services().settings, id) as draft:
        shutil.rmtree(draft.folder)


def begun(kind: str, query: schemas.CheckpointQuery | schemas.DatasetQuery | schemas.FileQuery) -> schemas.DraftAnswer:
    if Body().read(1):
        raise RequestInvalid("Begin an upload without a body; then PATCH it with the file.")
    draft = uploads.begin(services().settings, kind, query.model_dump(), number("Upload-Length"))
    set_headers(Location=f"/api/v1/uploads/{draft.id}")
    return told(draft)


def kept(draft: UploadDraft) -> str:
    """The id of the checkpoint or dataset that the file has become; of a file of a folder, its digest."""
    size_bytes = draft.told.size_bytes
    if draft.told.kind == FILES:
        return services().files.put(draft.file, move=True)
    if draft.told.kind == "checkpoints":
        return receive_checkpoint(draft.file, schemas.CheckpointQuery(**draft.told.asked), size_bytes).id
    return receive_dataset(draft.file, schemas.DatasetQuery(**draft.told.asked), size_bytes).id


def told(draft: UploadDraft) -> schemas.DraftAnswer:
    row_id, offset = draft.told.row_id, draft.offset
    set_headers(
        **{
            "Upload-Offset": str(offset),
            "Upload-Length": str(draft.told.size_bytes),
            "Upload-Complete": "?1" if row_id else "?0",
            "Cache-Control": "no-store",
        }
    )
    return schemas.DraftAnswer(
        id=draft.id,
        offset_bytes=offset,
        size_bytes=draft.told.size_bytes,
        checkpoint_id=row_id if draft.told.kind == "checkpoints" else None,
        dataset_id=row_id if draft.told.kind == "datasets" else None,
        digest=row_id if draft.told.kind == FILES else None,
    )


def set_headers(**headers: str) -> None:
    @after_this_request
    def add(response: Response) -> Response:
        response.headers.update(headers)
        return response


def number(header: str) -> int:
    """Raises RequestInvalid."""
    given = request.headers.get(header, "")
    if not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise RequestInvalid(f"The header {header} is missing, or no whole number of bytes.", header)
    return int(given)
