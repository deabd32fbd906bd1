"""Runs."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Response
from sqlalchemy import select
from sqlalchemy.orm import defer, selectinload
from sqlalchemy.orm.attributes import set_committed_value
from werkzeug.datastructures import MultiDict

from webapp.actions import run_requests
from webapp.actions.deletion import delete_run as delete_row
from webapp.actions.lineage import lineage_of_run
from webapp.actions.run_actions import chosen, perform
from webapp.actions.run_notes import RunEdit, edit_run
from webapp.actions.run_requests import RunChanges, RunRequest
from webapp.actions.run_table import RunsView, runs_page
from webapp.engine.recipe import lines_named
from webapp.store.models import Run, RunFigure
from webapp.web.extensions import db, row_of, services
from webapp.web.views.runs import csv_of

from . import schemas
from .answers import run_answer
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


@endpoint("GET", "/runs", "Runs: searched, narrowed and sorted; without more, newest first", example="'?sort=-speed'")
def get_runs(query: schemas.RunsQuery) -> schemas.Page[schemas.RunSummary]:
    found = runs_page(db.session, view_of(query), query.limit)
    return schemas.Page[schemas.RunSummary](items=summaries([run.id for run in found.runs]), next=found.next or None)


@endpoint("GET", "/runs.csv", "All of them as CSV, with the columns asked for", media_type="text/csv")
def get_runs_csv(query: schemas.RunsTableQuery) -> Response:
    return csv_of(view_of(query))


@endpoint(
    "POST",
    "/runs/actions",
    "Tag, star, cancel, retry or delete many runs",
    example="""--json '{"action": "tag", "tags": ["nightly"], "view": {"q": "digits"}}'""",
)
def act_on_runs(body: schemas.RunsActionRequest) -> schemas.RunsActionAnswer:
    ids = chosen(db.session, body.action, body.run_ids, body.view and view_of(body.view))
    performed = perform(db.session, services().jobs, body.action, ids, body.tags)
    return schemas.RunsActionAnswer(done=performed.done, left=performed.left)


def view_of(query: schemas.RunsFilter) -> RunsView:
    """Raises RequestInvalid."""
    before = query.before if isinstance(query, schemas.RunsQuery) else None
    told = query.model_dump(exclude={"limit", "before", "starred"}, exclude_none=True)
    pairs = MultiDict(told | {"starred": "1" if query.starred else "", "from": before or ""})
    return RunsView.read(pairs)


def summaries(ids: Sequence[str]) -> list[schemas.RunSummary]:
    """In this order. Of the receipts, the heavy part of a run, only those that tell of failed formats are read."""
    failed = set(
        db.session.scalars(
            select(RunFigure.run_id).where(RunFigure.run_id.in_(ids), RunFigure.name == "formats_failed")
        )
    )
    asked = select(Run).where(Run.id.in_(ids)).options(selectinload(Run.tag_rows))
    light = db.session.scalars(asked.where(Run.id.not_in(failed)).options(defer(Run.receipt))).all()
    for run in light:
        db.session.expunge(run)
        set_committed_value(run, "receipt", None)  # for `undelivered`, of which it has none
    whole = db.session.scalars(asked.where(Run.id.in_(failed))) if failed else ()
    found = {run.id: run for run in (*light, *whole)}
    return [schemas.RunSummary.model_validate(found[id_]) for id_ in ids if id_ in found]


@endpoint("GET", "/runs/<id>", "A run: how far it is, its log, and what came of it")
def get_run(id: str, query: schemas.RunQuery) -> schemas.RunAnswer:
    return run_answer(row_of(Run, id), query.after)


@endpoint(
    "PATCH",
    "/runs/<id>",
    "Name a run, write about it, tag it, star it",
    errors=(409,),
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


@endpoint("GET", "/runs/<id>/lineage", "Where a run comes from and what goes on from it, as a small tree")
def get_run_lineage(id: str) -> schemas.LineageAnswer:
    return schemas.LineageAnswer.model_validate(lineage_of_run(db.session, row_of(Run, id)))
