"""Pushing a result to the hub, from its run's page."""

from __future__ import annotations

from flask import Blueprint, redirect, request, url_for
from flask.typing import ResponseReturnValue

from webapp.actions.errors import Conflict, RequestInvalid
from webapp.actions.publishing import publish_run
from webapp.store.models import Run
from webapp.web.extensions import db, importing
from webapp.web.refusals import back_with

from . import runs

blueprint = Blueprint("publications", __name__)


@blueprint.post("/runs/<id>/publications")
def create(id: str) -> ResponseReturnValue:
    run = db.get_or_abort(Run, id)
    try:
        publish_run(run, request.form.get("repo_id", "").strip(), "private" in request.form, **importing())
    except (Conflict, RequestInvalid) as error:
        return back_with(error, runs.page, run, "repo_id")
    return redirect(url_for("runs.show", id=id, _anchor="publications"))
