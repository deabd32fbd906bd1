"""What goes on from results: the best of a checkpoint, its versions, a recipe on other data or another version."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, request, url_for
from flask.typing import ResponseReturnValue

from webapp.actions.run_requests import RunChanges, fork_run
from webapp.actions.versions import AppliedRuns, apply_runs, set_best, set_version
from webapp.engine.errors import PareError
from webapp.store.models import Checkpoint, Run
from webapp.web.extensions import db, services
from webapp.web.refusals import back_with

from . import checkpoints, runs

blueprint = Blueprint("lineage", __name__)


@blueprint.post("/runs/<id>/best")
def promote(id: str) -> ResponseReturnValue:
    """The run is the best of its checkpoint from now on; without `best` in the form it is no more."""
    run = db.get_or_abort(Run, id)
    try:
        set_best(db.session, run.checkpoint, run.id if "best" in request.form else None)
    except PareError as error:
        return back_with(error, runs.page, run, "best")
    return redirect(url_for("runs.show", id=id))


@blueprint.post("/runs/<id>/recalibrate")
def recalibrate(id: str) -> ResponseReturnValue:
    """A fork that calibrates and trains on the dataset of the form; where that is none, on the dataset's own split."""
    run = db.get_or_abort(Run, id)
    changes = RunChanges(training_dataset_id=request.form.get("training_dataset") or None)
    try:
        fork = fork_run(db.session, services().jobs, run, changes)
    except PareError as error:
        return back_with(error, runs.page, run, "training_dataset")
    return redirect(url_for("runs.show", id=fork.id))


@blueprint.post("/checkpoints/<id>/version")
def set_version_before(id: str) -> ResponseReturnValue:
    checkpoint = db.get_or_abort(Checkpoint, id)
    try:
        set_version(db.session, checkpoint, request.form.get("newer_than_id") or None)
    except PareError as error:
        return back_with(error, checkpoints.page, checkpoint, "newer_than_id")
    return redirect(url_for("checkpoints.show", id=id))


@blueprint.post("/checkpoints/<id>/apply")
def apply(id: str) -> ResponseReturnValue:
    """The recipes of the runs and studies that are ticked."""
    checkpoint = db.get_or_abort(Checkpoint, id)
    asked = AppliedRuns(run_ids=request.form.getlist("run"), study_ids=request.form.getlist("study"))
    try:
        made = apply_runs(db.session, services().jobs, checkpoint, asked)
    except PareError as error:
        return back_with(error, checkpoints.page, checkpoint, "apply")
    if len(made) == 1:
        return redirect(url_for("runs.show", id=made[0].id))
    of = {run.study_id for run in made}
    if len(of) == 1 and None not in of:
        return redirect(url_for("studies.show", id=made[0].study_id))
    flash(f"{len(made)} runs of {checkpoint.name} were started.")
    return redirect(url_for("runs.index", checkpoint=id))
