"""Studies: the list, and the page of one with the chart and the table of its runs."""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, Response, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import ValidationError
from sqlalchemy import func, select

from webapp import charts
from webapp.actions.budgets import solver_for
from webapp.actions.comparison import as_rows
from webapp.actions.errors import NotFound, RequestInvalid
from webapp.actions.sharing import shares_of_study
from webapp.actions.studies import (
    MoreAsked,
    SmallestAsked,
    StudyRequest,
    cancel_study,
    delete_study,
    extend_study,
    progress_of,
    retry_study,
    rows_of,
    start_study,
    studies_page,
    study_request,
    take_run,
    unit_of,
)
from webapp.actions.sweeps import GATHERED, seconds_left, share_done, table_of, told
from webapp.engine.errors import PareError
from webapp.engine.recipe import as_yaml, lines_named
from webapp.store.models import Profile, Run, RunState, Study
from webapp.web.calls import MadeBy
from webapp.web.compression import unless_known
from webapp.web.extensions import db, row_of, services
from webapp.web.refusals import RefusedField, back_with

from .compare import csv_answer

blueprint = Blueprint("studies", __name__, url_prefix="/studies")

KINDS = {
    "race": "Budget against uniform recipes",
    "smallest": "Smallest within a tolerance",
    "front": "Budgets of many sizes",
    "sweep": "Sweep",
}
FIELDS = {"most_runs": "most_runs", "most_minutes": "most_minutes"}  # of the form; any other is the tolerance's
UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


@blueprint.get("")
def index() -> str:
    """A page of them: `?from=` and `?to=` as in the table of runs. Raises RequestInvalid."""
    studies, page = studies_page(db.session, request.args.get("from", ""), request.args.get("to", ""))
    total = db.session.scalar(select(func.count(Study.id))) or 0
    return render_template("studies/index.html", studies=studies, total=total, page=page, kinds=KINDS)


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
        return back_with(error, asked_page, profile, FIELDS.get(error.field or "", "tolerance"))
    return redirect(url_for("studies.show", id=study.id))


@blueprint.get("/<id>")
def show(id: str) -> ResponseReturnValue:
    """Asked for again and again by pages that are open: where nothing has changed, these are answered 304."""
    study = db.get_or_abort(Study, id)
    if "X-Refresh" not in request.headers:
        return shown(study)
    return unless_known(fingerprint(study), lambda: shown(study))


def fingerprint(study: Study) -> str:
    """Another one whenever the page would show something else."""
    runs = select(Run.id, Run.state, Run.progress, Run.attempt).where(Run.study_id == study.id).order_by(Run.id)
    told = [study.state, study.message, study.conclusion, study.error, study.taken_run_id, request.query_string]
    rows = [tuple(row) for row in db.session.execute(runs)]
    links = [share.id for share in shares_of_study(db.session, study.id)]
    return repr((told, rows, links))


def shown(study: Study, refused: RefusedField | None = None) -> str:
    recipes = [as_yaml(recipe) for recipe in study.question.get("recipes", ())]
    links = shares_of_study(db.session, study.id)
    given = {"recipes": recipes, "refused": refused, "form": request.form, "units": list(UNITS)}
    asked = study_request(study)
    made_by = MadeBy("/studies", asked) if asked else None
    return render_template("studies/show.html", links=links, made_by=made_by, **given, **study_page(study))


@blueprint.post("/<id>/cancel")
def cancel(id: str) -> ResponseReturnValue:
    cancel_study(db.session, services().jobs, db.get_or_abort(Study, id))
    return redirect(url_for("studies.show", id=id))


@blueprint.post("/<id>/retry")
def retry(id: str) -> ResponseReturnValue:
    count = retry_study(db.session, services().jobs, db.get_or_abort(Study, id))
    flash(f"{count} run{' is' if count == 1 else 's are'} tried again.")
    return redirect(url_for("studies.show", id=id))


@blueprint.post("/<id>/take")
def take(id: str) -> ResponseReturnValue:
    """The run that `run` names is the one to go on with."""
    study = db.get_or_abort(Study, id)
    run = take_run(db.session, study, request.form.get("run", ""))
    flash(f"Taken from {study.name}. Below are its receipt and its files.")
    return redirect(url_for("runs.show", id=run.id))


@blueprint.post("/<id>/extend")
def extend(id: str) -> ResponseReturnValue:
    """`recipe`: text with other ranges; or `sizes`, numbers in `unit` with commas between them."""
    study = db.get_or_abort(Study, id)
    try:
        with lines_named(request.form.get("recipe")):
            count = extend_study(db.session, services().jobs, study, asked_more())
    except PareError as error:
        return back_with(error, shown, study, "recipe" if "recipe" in request.form else "sizes")
    flash(f"{count} run{' joins' if count == 1 else 's join'} the study.")
    return redirect(url_for("studies.show", id=id))


@blueprint.post("/<id>/delete")
def delete(id: str) -> ResponseReturnValue:
    """With `runs`, its runs go too."""
    study = db.get_or_abort(Study, id)
    with_runs = "runs" in request.form
    delete_study(db.session, study, with_runs)
    flash(f"{study.name} was deleted{' with its runs' if with_runs else '; its runs stay'}.")
    return redirect(url_for("studies.index"))


@blueprint.get("/<id>/table.csv")
def table(id: str) -> Response:
    return csv_of(db.get_or_abort(Study, id))


def study_page(study: Study, links: bool = True) -> dict[str, Any]:
    """What its page and its shared page show; without `links`, nothing that leads to a run."""
    given: dict[str, Any] = {"study": study, "kind": KINDS[study.kind]}
    given["first"] = max(0, request.args.get("first", 0, type=int))
    if study.kind in GATHERED:
        found = told(db.session, study, request.args.get("metric", ""), request.args.get("x", ""))
        given |= {"sweep": found, "figures": found.figures(study.taken_run_id, links)}
        given |= {"progress": share_done(study.state, found.runs), "seconds_left": seconds_left(db.session, found.runs)}
    if study.kind == "sweep":
        return given
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
    tolerance = study.question.get("tolerance")
    given |= {"rows": rows, "unit": unit, "figure": charts.study_runs(drawn, unit, tolerance)}
    return {"progress": progress_of(study)} | given


def csv_of(study: Study, named: bool = True) -> Response:
    """The table of a sweep or a front, its runs `named` by their ids, or numbered. Raises NotFound for another kind."""
    if study.kind not in GATHERED:
        raise NotFound("This study has no table as CSV; compare its runs, which has one.")
    found = told(db.session, study, request.args.get("metric", ""), request.args.get("x", ""))
    return csv_answer(as_rows(table_of(found, named)), "study.csv")


def asked_more() -> MoreAsked:
    """Raises RequestInvalid."""
    form = request.form
    if "recipe" in form:
        return MoreAsked(recipe=form["recipe"])
    words = re.split(r"[\s,;]+", form.get("sizes", "").strip())
    unit = UNITS.get(form.get("unit", "kB"), 1)
    try:
        sizes = [round(float(word) * unit) for word in words if word]
        return MoreAsked(sizes=sizes)
    except (ValueError, OverflowError):  # pydantic's too
        raise RequestInvalid("Name 1 to 50 sizes above 0 as numbers, with commas between them.", "sizes") from None


def asked_page(profile: Profile, refused: RefusedField | None = None) -> str:
    if profile.state is not RunState.SUCCEEDED:
        raise RequestInvalid(f"The profile is {profile.state}; a study begins once it has succeeded.", "profile")
    solver = solver_for(profile)
    points, unit = solver.points_fit is not None, solver.profile.unit
    given = {"profile": profile, "unit": unit, "points": points, "form": request.form, "refused": refused}
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
