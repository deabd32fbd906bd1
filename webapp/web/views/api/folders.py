"""Checkpoints of several files: each an upload of its own, then put together."""

from __future__ import annotations

from webapp.actions import folder_uploads
from webapp.web.extensions import importing, services

from . import schemas
from .answers import checkpoint_answer
from .endpoints import endpoint
from .uploads import begun


@endpoint(
    "POST",
    "/files",
    "Begin to upload a file of a folder: PATCH its upload, then name it in POST /folders. Upload-Length is its size",
    status=201,
    headers=("Upload-Length",),
    errors=(413, 507),
    example="-H 'Upload-Length: 720' '?name=config.json'",
)
def begin_file(query: schemas.FileQuery) -> schemas.DraftAnswer:
    folder_uploads.file_name(query.name)
    return begun(folder_uploads.FILES, query)


@endpoint(
    "POST",
    "/folders",
    "Put files that were uploaded together: they become one checkpoint",
    status=201,
    errors=(404, 409, 413),
    example="""--json '{"name": "llama", "files": {"config.json": "ID", "model.safetensors": "ID"}}'""",
)
def create_folder(body: schemas.FolderRequest) -> schemas.CheckpointAnswer:
    row = folder_uploads.receive_folder(
        body.name,
        body.files,
        files=services().files,
        **importing(),
        dequantize=body.dequantize,
        task=body.task,
        newer_than_id=body.newer_than_id,
    )
    return checkpoint_answer(row)
