"""What the layers of a run cost: the page, what measures it, and the fork that gives some of them back."""

from __future__ import annotations

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.actions.blame import blame_of, give_back, measure_blame
from webapp.actions.errors import RequestInvalid
from webapp.engine.errors import PareError
from webapp.store.models import Run
from webapp.web.extensions import db, services
from webapp.web.refusals import RefusedField, back_with

blueprint = Blueprint("blame", __name__, url_prefix="/runs/<id>/blame")


@blueprint.get("")
def show(id: str) -> str:
    return page(db.get_or_abort(Run, id))


@blueprint.post("/measure")
def measure(id: str) -> ResponseReturnValue:
    measure_blame(db.session, services().jobs, db.get_or_abort(Run, id))
    return redirect(url_for("blame.show", id=id))


@blueprint.post("/give-back")
def fork(id: str) -> ResponseReturnValue:
    run = db.get_or_abort(Run, id)
    try:
        if not (layers := request.form.getlist("layer")):
            raise RequestInvalid("Tick the layers that are to be given back.", "layers")
        made = give_back(db.session, services().jobs, run, layers)
    except PareError as error:
        return back_with(error, page, run, "layers")
    return redirect(url_for("runs.show", id=made.id))


def page(run: Run, refused: RefusedField | None = None) -> str:
    return render_template("blame/show.html", run=run, blame=blame_of(db.session, run), refused=refused)
