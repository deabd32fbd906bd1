"""Runs."""

from __future__ import annotations

from webapp.actions import run_requests
from webapp.actions.deletion import delete_run as delete_row
from webapp.actions.run_notes import RunEdit, edit_run
from webapp.actions.run_requests import RunChanges, RunRequest
from webapp.engine.recipe import lines_named
from webapp.store.models import Run
from webapp.web.extensions import db, row_of, services

from . import schemas
from .answers import page, run_answer
from .endpoints import endpoint


@endpoint(
    "POST",
    "/runs",
    "Start a run",
    status=202,
    errors=(404, 409),
    example="""--json '{"checkpoint_id": "ID", "recipe": {"version": 2, "steps": [{"technique": "cast"}]}}'""",
)
def create_run(body: RunRequest) -> schemas.RunAnswer:
    with lines_named(body.recipe):
        return run_answer(run_requests.create_run(db.session, services().jobs, body))


@endpoint("GET", "/runs", "Runs, newest first")
def get_runs(query: schemas.PageQuery) -> schemas.Page[schemas.RunSummary]:
    rows, next_ = page(Run, query)
    return schemas.Page[schemas.RunSummary](items=rows, next=next_)


@endpoint("GET", "/runs/<id>", "A run: how far it is, its log, and what came of it")
def get_run(id: str, query: schemas.RunQuery) -> schemas.RunAnswer:
    return run_answer(row_of(Run, id), query.after)


@endpoint(
    "PATCH",
    "/runs/<id>",
    "Name a run, write about it, tag it, star it",
    example="""--json '{"tags": ["baseline"], "starred": true}'""",
)
def change_run(id: str, body: RunEdit) -> schemas.RunAnswer:
    run = row_of(Run, id)
    edit_run(db.session, run, body)
    return run_answer(run)


@endpoint("DELETE", "/runs/<id>", "Delete a run that has ended", status=204, errors=(409,))
def delete_run(id: str) -> None:
    delete_row(db.session, row_of(Run, id))


@endpoint("POST", "/runs/<id>/cancel", "Cancel a run", status=202, errors=(409,))
def cancel_run(id: str) -> schemas.RunAnswer:
    run = row_of(Run, id)
    run_requests.cancel_run(db.session, services().jobs, run)
    return run_answer(run)


@endpoint(
    "POST",
    "/runs/<id>/retry",
    "Start a failed or cancelled run again, at the stage where it ended, or the formats that failed",
    status=202,
    errors=(409,),
)
def retry_run(id: str) -> schemas.RunAnswer:
    run = row_of(Run, id)
    run_requests.retry_run(db.session, services().jobs, run)
    return run_answer(run)


@endpoint(
    "POST",
    "/runs/<id>/fork",
    "Start a new run like this one, with changes",
    status=202,
    errors=(409,),
    example="""--json '{"seed": 1}'""",
)
def fork_run(id: str, body: RunChanges) -> schemas.RunAnswer:
    return run_answer(run_requests.fork_run(db.session, services().jobs, row_of(Run, id), body))
