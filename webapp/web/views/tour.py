"""The buttons of the tour."""

from __future__ import annotations

from flask import Blueprint, redirect, url_for
from flask.typing import ResponseReturnValue

from webapp import samples
from webapp.web.extensions import db, services
from webapp.web.tour import TourStep, go_on, leave_tour, start_tour

blueprint = Blueprint("tour", __name__, url_prefix="/tour")


@blueprint.post("")
def start() -> ResponseReturnValue:
    """With the sample, which is added where it is not there. Raises StoreFull where there is no space for it."""
    samples.install(db.session, services().files, services().jobs)
    return to(start_tour())


@blueprint.post("/next")
def go_further() -> ResponseReturnValue:
    return to(go_on())


@blueprint.post("/leave")
def leave() -> ResponseReturnValue:
    leave_tour()
    return redirect(url_for("home.index"))


def to(step: TourStep | None) -> ResponseReturnValue:
    """The step's page, with the panel of the tour in focus."""
    return redirect(f"{step.url}#tour" if step else url_for("home.index"))
