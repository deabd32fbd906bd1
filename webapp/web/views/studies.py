"""Studies: the list, and the page of one with the chart and the table of its runs."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import joinedload

from webapp import charts
from webapp.actions.budgets import solver_for
from webapp.actions.errors import RequestInvalid
from webapp.actions.sharing import shares_of_study
from webapp.actions.studies import (
    SmallestAsked,
    StudyRequest,
    cancel_study,
    delete_study,
    progress_of,
    rows_of,
    start_study,
    unit_of,
)
from webapp.engine.errors import PareError
from webapp.store.models import Checkpoint, Profile, RunState, Study
from webapp.web.extensions import db, row_of, services

blueprint = Blueprint("studies", __name__, url_prefix="/studies")

PAGE = 50  # studies on one page of the list
KINDS = {"race": "Budget against uniform recipes", "smallest": "Smallest within a tolerance"}


@blueprint.get("")
def index() -> str:
    total = db.session.scalar(select(func.count(Study.id))) or 0
    pages = max(1, -(-total // PAGE))
    page = min(max(1, request.args.get("page", 1, type=int)), pages)
    studies = db.session.scalars(
        select(Study)
        .options(joinedload(Study.checkpoint).load_only(Checkpoint.name))
        .order_by(Study.created_at.desc(), Study.id)
        .limit(PAGE)
        .offset((page - 1) * PAGE)
    ).all()
    return render_template("studies/index.html", studies=studies, total=total, page=page, pages=pages, kinds=KINDS)


@blueprint.get("/new")
def new() -> str:
    """`?profile=ID`: how small the file can become within a tolerance."""
    return asked_page(row_of(Profile, request.args.get("profile", "")))


@blueprint.post("")
def create() -> ResponseReturnValue:
    """Of the form: a search for the smallest file."""
    profile = row_of(Profile, request.form.get("profile", ""))
    try:
        study = start_study(db.session, services().jobs, StudyRequest(profile_id=profile.id, smallest=asked_smallest()))
    except PareError as error:
        db.session.rollback()
        return asked_page(profile, error), error.status
    return redirect(url_for("studies.show", id=study.id))


@blueprint.get("/<id>")
def show(id: str) -> str:
    study = db.get_or_abort(Study, id)
    return render_template("studies/show.html", links=shares_of_study(db.session, id), **study_page(study))


@blueprint.post("/<id>/cancel")
def cancel(id: str) -> ResponseReturnValue:
    cancel_study(db.session, services().jobs, db.get_or_abort(Study, id))
    return redirect(url_for("studies.show", id=id))


@blueprint.post("/<id>/delete")
def delete(id: str) -> ResponseReturnValue:
    study = db.get_or_abort(Study, id)
    delete_study(db.session, study)
    flash(f"{study.name} was deleted; its runs stay.")
    return redirect(url_for("studies.index"))


def study_page(study: Study) -> dict[str, Any]:
    """What its page and its shared page show."""
    rows, unit = rows_of(study), unit_of(study)
    drawn = [
        {
            "name": row.title,
            "size_bytes": row.size_bytes,
            "measured": row.measured
            and {"value": row.measured.value, "low": row.measured.low, "high": row.measured.high},
            "expected_bytes": (row.run.expected or {}).get("size_bytes"),
            "expected": row.expected,
            "wins": row.wins,
        }
        for row in rows
    ]
    return {
        "study": study,
        "kind": KINDS[study.kind],
        "rows": rows,
        "unit": unit,
        "progress": progress_of(study),
        "figure": charts.study_runs(drawn, unit, study.question.get("tolerance")),
    }


def asked_page(profile: Profile, error: PareError | None = None) -> str:
    if profile.state is not RunState.SUCCEEDED:
        raise RequestInvalid(f"The profile is {profile.state}; a study begins once it has succeeded.", "profile")
    solver = solver_for(profile)
    points, unit = solver.points_fit is not None, solver.profile.unit
    given = {"profile": profile, "unit": unit, "points": points, "form": request.form, "error": error}
    return render_template("studies/new.html", **given)


def asked_smallest() -> SmallestAsked:
    """Raises RequestInvalid."""
    form = request.form
    found: dict[str, Any] = {"certain": "certain" in form}
    for field, name in (
        (form.get("tolerance_in", "points"), "tolerance"),
        ("most_runs", "most_runs"),
        ("most_minutes", "most_minutes"),
    ):
        try:
            found[field] = float(form.get(name, "").replace(",", "."))
        except ValueError:
            raise RequestInvalid(f"{name.replace('_', ' ').capitalize()} is not a number.", name) from None
    try:
        return SmallestAsked.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestInvalid(f"{first['loc'][-1]}: {first['msg'].lower()}.", str(first["loc"][-1])) from None
