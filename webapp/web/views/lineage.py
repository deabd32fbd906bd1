"""What goes on from results: the best of a checkpoint, its versions, a recipe on other data or another version."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import load_only

from webapp.actions.compatibility import incompatible_datasets
from webapp.actions.run_requests import RunChanges, fork_run
from webapp.actions.versions import AppliedRuns, apply_runs, set_best, set_version
from webapp.engine.errors import PareError
from webapp.engine.recipe import Recipe, Step
from webapp.engine.techniques import DATA_NEEDS, needs_of, techniques
from webapp.store.models import Checkpoint, Dataset, Run, UploadState
from webapp.web.extensions import db, services

blueprint = Blueprint("lineage", __name__)

OFFERED = 200  # checkpoints that one may be a version of, the newest


@blueprint.post("/runs/<id>/best")
def promote(id: str) -> ResponseReturnValue:
    """The run is the best of its checkpoint from now on; without `best` in the form it is no more."""
    run = db.get_or_abort(Run, id)
    checkpoint = run.checkpoint
    try:
        set_best(db.session, checkpoint, run.id if "best" in request.form else None)
    except PareError as error:
        flash(error.message, "danger")
    return redirect(url_for("runs.show", id=id))


@blueprint.post("/runs/<id>/recalibrate")
def recalibrate(id: str) -> ResponseReturnValue:
    """A fork that calibrates and trains on the dataset of the form; where that is none, on the dataset's own split."""
    run = db.get_or_abort(Run, id)
    changes = RunChanges(training_dataset_id=request.form.get("training_dataset") or None)
    try:
        fork = fork_run(db.session, services().jobs, run, changes)
    except PareError as error:
        flash(error.message, "danger")
        return redirect(url_for("runs.show", id=id))
    return redirect(url_for("runs.show", id=fork.id))


@blueprint.post("/checkpoints/<id>/version")
def set_version_before(id: str) -> ResponseReturnValue:
    checkpoint = db.get_or_abort(Checkpoint, id)
    try:
        set_version(db.session, checkpoint, request.form.get("newer_than_id") or None)
    except PareError as error:
        flash(error.message, "danger")
    return redirect(url_for("checkpoints.show", id=id))


@blueprint.post("/checkpoints/<id>/apply")
def apply(id: str) -> ResponseReturnValue:
    """The recipes of the runs and studies that are ticked."""
    checkpoint = db.get_or_abort(Checkpoint, id)
    asked = AppliedRuns(run_ids=request.form.getlist("run"), study_ids=request.form.getlist("study"))
    try:
        made = apply_runs(db.session, services().jobs, checkpoint, asked)
    except PareError as error:
        flash(error.message, "danger")
        return redirect(url_for("checkpoints.show", id=id))
    if len(made) == 1:
        return redirect(url_for("runs.show", id=made[0].id))
    of = {run.study_id for run in made}
    if len(of) == 1 and None not in of:
        return redirect(url_for("studies.show", id=made[0].study_id))
    flash(f"{len(made)} runs of {checkpoint.name} were started.")
    return redirect(url_for("runs.index", checkpoint=id))


def other_data(run: Run) -> list[Dataset] | None:
    """What it could be calibrated on instead, newest first; None where no step of it learns from data."""
    if not any(learns(step) for step in Recipe.read(run.recipe).steps):
        return None
    reasons = incompatible_datasets(db.session, run.checkpoint)
    light = load_only(Dataset.id, Dataset.name)
    rows = select(Dataset).options(light).where(Dataset.state == UploadState.READY).order_by(Dataset.created_at.desc())
    used = run.training_dataset_id or run.dataset_id
    return [row for row in db.session.scalars(rows) if row.id != used and reasons.get(row.id, "") is None]


def learns(step: Step) -> bool:
    """Whether a step looks at data; not one that an earlier version of Pare took and this one does not."""
    if step.technique not in techniques():
        return False
    try:
        return bool(needs_of(step.technique, step.settings, step.overrides) & DATA_NEEDS)
    except ValidationError:
        return False


def earlier_versions(but: str | None = None) -> list[Checkpoint]:
    """What a checkpoint may be a newer version of, newest first."""
    rows = select(Checkpoint).options(load_only(Checkpoint.id, Checkpoint.name)).where(Checkpoint.id != (but or ""))
    return list(db.session.scalars(rows.order_by(Checkpoint.created_at.desc()).limit(OFFERED)))
