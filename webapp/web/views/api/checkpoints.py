"""Checkpoints."""

from __future__ import annotations

from pathlib import Path

from webapp.actions import uploads, versions
from webapp.actions.deletion import delete_checkpoint as delete_row
from webapp.actions.lineage import lineage_of_checkpoint
from webapp.actions.run_requests import set_task
from webapp.actions.versions import AppliedRuns, set_best, set_version, versions_of
from webapp.store.files import Readable
from webapp.store.models import Checkpoint
from webapp.web.extensions import db, row_of, services, taking_in

from . import schemas
from .answers import checkpoint_answer, page
from .endpoints import Body, body_length, endpoint, require_bare_body


@endpoint(
    "PUT",
    "/checkpoints",
    "Upload a checkpoint: the file is the body",
    status=201,
    raw_body=True,
    errors=(404, 413, 415, 422, 507),
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
    "Say what a checkpoint is for, which of its runs is the best so far, or of which one it is the next version",
    errors=(409,),
    example="""--json '{"best_run_id": "ID"}'""",
)
def change_checkpoint(id: str, body: schemas.CheckpointChanges) -> schemas.CheckpointAnswer:
    row = row_of(Checkpoint, id)
    if "task" in body.model_fields_set:
        set_task(db.session, row, body.task)
    if "newer_than_id" in body.model_fields_set:
        set_version(db.session, row, body.newer_than_id)
    if "best_run_id" in body.model_fields_set:
        set_best(db.session, row, body.best_run_id)
    return checkpoint_answer(row)


@endpoint("GET", "/checkpoints/<id>/versions", "The versions that a checkpoint is one of, the first one first")
def get_versions(id: str) -> schemas.Items[schemas.CheckpointAnswer]:
    rows = versions_of(db.session, row_of(Checkpoint, id))
    return schemas.Items[schemas.CheckpointAnswer](items=[checkpoint_answer(row, with_facts=False) for row in rows])


@endpoint("GET", "/checkpoints/<id>/lineage", "Where a checkpoint comes from and what became of it, as a small tree")
def get_checkpoint_lineage(id: str) -> schemas.LineageAnswer:
    return schemas.LineageAnswer.model_validate(lineage_of_checkpoint(db.session, row_of(Checkpoint, id)))


@endpoint(
    "POST",
    "/checkpoints/<id>/runs",
    "Apply the recipes of runs to a checkpoint, such as the next version of theirs",
    status=202,
    errors=(409,),
    example="""--json '{"run_ids": ["ID"]}'""",
)
def apply_runs(id: str, body: AppliedRuns) -> schemas.Items[schemas.RunSummary]:
    made = versions.apply_runs(db.session, services().jobs, row_of(Checkpoint, id), body)
    return schemas.Items[schemas.RunSummary](items=made)


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
        newer_than_id=query.newer_than_id,
    )
