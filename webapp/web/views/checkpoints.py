"""Checkpoints: the list, the upload, and what inspection found in one."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import Select, and_, func, select
from sqlalchemy.orm import defer

from webapp import charts
from webapp.actions import imports
from webapp.actions.compatibility import tasks_of
from webapp.actions.deletion import delete_checkpoint
from webapp.actions.errors import Conflict, NotFound, RequestInvalid
from webapp.actions.lineage import lineage_of_checkpoint
from webapp.actions.run_columns import DEFAULT
from webapp.actions.run_requests import set_task
from webapp.actions.run_table import RunsView, runs_page
from webapp.actions.versions import applicable, earlier_versions, studies_of, suggested_version, told_versions
from webapp.engine.data.tasks import JUDGED_BY, USES
from webapp.engine.errors import TaskUnfit
from webapp.engine.exporters import exporters
from webapp.engine.facts import CheckpointFacts
from webapp.engine.importers import importers
from webapp.engine.plugins import Accepted
from webapp.engine.run.predict import held_by, unreached
from webapp.store.models import Checkpoint, Run, RunFigure, UploadState
from webapp.web.extensions import db, importing, services
from webapp.web.refusals import RefusedField, back_with

blueprint = Blueprint("checkpoints", __name__, url_prefix="/checkpoints")

LATEST = 6  # runs that its page shows


@blueprint.get("")
def index() -> str:
    runs = select(func.count(Run.id)).where(Run.checkpoint_id == Checkpoint.id).scalar_subquery()
    best = {id_: (name, size) for id_, name, size in db.session.execute(best_runs())}
    rows = db.session.execute(
        select(Checkpoint, runs).options(defer(Checkpoint.files)).order_by(Checkpoint.created_at.desc(), Checkpoint.id)
    ).all()
    shown = [(checkpoint, summary(checkpoint), count) for checkpoint, count in rows]
    return render_template("checkpoints/index.html", rows=shown, best=best, accepted=accepted())


@blueprint.get("/new")
def new() -> str:
    return new_page()


def new_page(refused: RefusedField | None = None) -> str:
    return render_template(
        "checkpoints/new.html",
        refused=refused,
        uses=USES,
        earlier=earlier_versions(db.session),
        newer_than=request.values.get("newer_than_id" if refused else "newer_than", ""),
        accepted=accepted(),
        dequantized=[kind.accepts.title for kind in importers().values() if kind.dequantizes],
        limit_bytes=services().settings.max_upload_bytes,
        folders_named=services().settings.import_folders,
        hub=services().settings.hub_url,
        importable=imports.importable(services().settings),
    )


@blueprint.post("/import")
def take_in() -> ResponseReturnValue:
    form = request.form
    given = {"task": form.get("task") or None, "newer_than_id": form.get("newer_than_id") or None}
    asked = {**importing(), **given, "dequantize": "dequantize" in form}
    try:
        if "repo_id" in form:
            row = imports.import_from_hub(form["repo_id"].strip(), form.get("revision", "").strip() or None, **asked)
        else:
            row = imports.import_path(form.get("path", ""), **asked)
    except (RequestInvalid, Conflict, NotFound, TaskUnfit) as error:
        db.session.rollback()
        return new_page(RefusedField("repo_id" if "repo_id" in form else "path", error.message)), error.status
    return redirect(url_for("checkpoints.show", id=row.id))


@blueprint.get("/<id>")
def show(id: str) -> str:
    return page(db.get_or_abort(Checkpoint, id))


def page(checkpoint: Checkpoint, refused: RefusedField | None = None) -> str:
    id = checkpoint.id
    if checkpoint.state != UploadState.READY:
        return render_template("checkpoints/pending.html", checkpoint=checkpoint)
    facts = CheckpointFacts.model_validate(checkpoint.facts)
    latest = RunsView(checkpoint=id, columns=tuple(key for key in DEFAULT if key != "checkpoint"))
    layers = {layer.weight: layer.kind for layer in facts.layers}
    return render_template(
        "checkpoints/show.html",
        checkpoint=checkpoint,
        facts=facts,
        layers=layers,
        unreached=unreached(held_by(facts), facts.weights_bytes),
        runs=runs_page(db.session, latest, LATEST).runs,
        run_columns=latest.shown,
        lineage=lineage_of_checkpoint(db.session, checkpoint),
        versions=told_versions(db.session, checkpoint),
        suggested=suggested_version(db.session, checkpoint),
        earlier=earlier_versions(db.session, but=id),
        refused=refused,
        applicable=applicable(db.session, checkpoint),
        studies=studies_of(db.session, [checkpoint.newer_than_id]),
        best=db.session.get(Run, checkpoint.best_run_id) if checkpoint.best_run_id else None,
        written_as=[form.title for form in exporters().values() if form.refuses(facts) is None],
        unwritable=unwritable(facts),
        tasks=tasks_of(checkpoint.facts or {}),
        evaluated_by=JUDGED_BY,
        treemap=charts.weights_treemap(checkpoint.facts or {}, checkpoint.name),
    )


@blueprint.post("/<id>/task")
def use_for(id: str) -> ResponseReturnValue:
    checkpoint = db.get_or_abort(Checkpoint, id)
    try:
        set_task(db.session, checkpoint, request.form.get("task") or None)
    except (TaskUnfit, Conflict) as error:
        return back_with(error, page, checkpoint, "task")
    flash(f"{checkpoint.name}: the task is set. Runs that were asked for before keep theirs.")
    return redirect(url_for("checkpoints.show", id=id))


@blueprint.post("/<id>/delete")
def delete(id: str) -> ResponseReturnValue:
    checkpoint = db.get_or_abort(Checkpoint, id)
    delete_checkpoint(db.session, checkpoint)
    flash(f"{checkpoint.name} was deleted.")
    return redirect(url_for("checkpoints.index"))


def best_runs() -> Select[Any]:
    """(checkpoint, name of its best run, bytes of that one's file)."""
    size = and_(RunFigure.run_id == Run.id, RunFigure.name == "size_bytes")
    return (
        select(Run.best_of_id, Run.name, RunFigure.value)
        .join(RunFigure, size, isouter=True)
        .where(Run.best_of_id.is_not(None))
    )


def accepted() -> list[Accepted]:
    """What can be uploaded, as the importers declare it."""
    return [kind.accepts for kind in importers().values()]


def unwritable(facts: CheckpointFacts) -> dict[str, list[str]]:
    """What tracing its graph has shown: each reason, with the titles of the formats."""
    found: dict[str, list[str]] = {}
    for name, why in facts.unwritable.items():
        if name in exporters():
            found.setdefault(why, []).append(exporters()[name].title)
    return found


def summary(checkpoint: Checkpoint) -> dict[str, object]:
    """What a row of the list shows, straight from the stored JSON: validating thousands of tensors would be slow."""
    facts = checkpoint.facts or {}
    architecture = facts.get("architecture")
    return {
        "architecture": architecture["title"] if architecture else "weights only" if facts else None,
        "task": architecture["task"] if architecture else None,
        "tensors": len(facts.get("tensors", ())),
    }
