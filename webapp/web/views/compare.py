"""Runs side by side. The whole state is in the address: runs, metric, axes, sorting."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, render_template, request
from sqlalchemy import select
from sqlalchemy.orm import joinedload, load_only

from webapp import charts
from webapp.actions.comparison import COLUMNS, SCALES, View, as_csv, compare, drawn, runs_of
from webapp.actions.sharing import shares_of
from webapp.store.models import Checkpoint, Dataset, Run
from webapp.web.extensions import db

blueprint = Blueprint("compare", __name__)

PICKER_RUNS = 500  # the newest; older ones can still be named in the address


@blueprint.get("/compare")
def index() -> str:
    view = View.read(request.args)
    choices = pickable(view.run_ids)
    if not view.run_ids:
        return render_template("compare/pick.html", choices=choices, view=view)
    found = compare(view, drawn(runs_of(db.session, view.run_ids)))
    return render_template(
        "compare/show.html",
        comparison=found,
        view=view,
        choices=choices,
        figures=found.figures(),
        axes=charts.AXES,
        scales=SCALES,
        columns=COLUMNS,
        links=shares_of(db.session, view.run_ids, comparison=True),
    )


@blueprint.get("/compare.csv")
def table() -> Response:
    view = View.read(request.args)
    return csv_answer(as_csv(compare(view, drawn(runs_of(db.session, view.run_ids)))))


def csv_answer(text: str) -> Response:
    return Response(text, mimetype="text/csv", headers={"Content-Disposition": 'attachment; filename="compare.csv"'})


def pickable(chosen: tuple[str, ...]) -> list[Run]:
    """The newest runs, without what is heavy in them, and those that are chosen already."""
    light = (
        load_only(Run.id, Run.name, Run.state, Run.created_at, Run.checkpoint_id, Run.dataset_id),
        joinedload(Run.checkpoint).load_only(Checkpoint.name),
        joinedload(Run.dataset).load_only(Dataset.name),
    )
    newest = list(db.session.scalars(select(Run).options(*light).order_by(Run.created_at.desc()).limit(PICKER_RUNS)))
    older = [id_ for id_ in chosen if id_ not in {run.id for run in newest}]
    return newest + [run for id_ in older if (run := db.session.get(Run, id_)) is not None]


@blueprint.app_template_global()
def numbered(runs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """("1", the first run's name), …: the columns of the table of layers, as the address names them."""
    return [(str(number), run["name"]) for number, run in enumerate(runs, start=1)]
