"""Checkpoints."""

from __future__ import annotations

from pathlib import Path

from webapp.actions import uploads
from webapp.actions.deletion import delete_checkpoint as delete_row
from webapp.actions.run_requests import set_task
from webapp.store.files import Readable
from webapp.store.models import Checkpoint
from webapp.web.extensions import db, row_of, taking_in

from . import schemas
from .answers import checkpoint_answer, page
from .endpoints import Body, body_length, endpoint, require_bare_body


@endpoint(
    "PUT",
    "/checkpoints",
    "Upload a checkpoint: the file is the body",
    status=201,
    raw_body=True,
    errors=(413, 415, 422, 507),
    example="-T model.safetensors '?name=model.safetensors'",
)
def put_checkpoint(query: schemas.CheckpointQuery) -> schemas.CheckpointAnswer:
    require_bare_body()
    return checkpoint_answer(receive_checkpoint(Body(), query, body_length()))


@endpoint("GET", "/checkpoints", "Checkpoints, newest first")
def get_checkpoints(query: schemas.PageQuery) -> schemas.Page[schemas.CheckpointAnswer]:
    rows, next_ = page(Checkpoint, query)
    return schemas.Page[schemas.CheckpointAnswer](
        items=[checkpoint_answer(row, with_facts=False) for row in rows], next=next_
    )


@endpoint("GET", "/checkpoints/<id>", "A checkpoint and what was found in it")
def get_checkpoint(id: str) -> schemas.CheckpointAnswer:
    return checkpoint_answer(row_of(Checkpoint, id))


@endpoint(
    "PATCH",
    "/checkpoints/<id>",
    "Say what a checkpoint is for",
    errors=(409,),
    example="""--json '{"task": "regression"}'""",
)
def change_checkpoint(id: str, body: schemas.CheckpointChanges) -> schemas.CheckpointAnswer:
    row = row_of(Checkpoint, id)
    if "task" in body.model_fields_set:
        set_task(db.session, row, body.task)
    return checkpoint_answer(row)


@endpoint("DELETE", "/checkpoints/<id>", "Delete a checkpoint that no run uses", status=204, errors=(409,))
def delete_checkpoint(id: str) -> None:
    delete_row(db.session, row_of(Checkpoint, id))


def receive_checkpoint(
    stream: Readable | Path, query: schemas.CheckpointQuery, expected_bytes: int | None
) -> Checkpoint:
    return uploads.receive_checkpoint(
        stream,
        query.name,
        **taking_in(),
        expected_bytes=expected_bytes,
        dequantize=query.dequantize,
        task=query.task,
    )
