"""Runs side by side. The whole state is in the address: runs, metric, axes, sorting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, render_template, request
from werkzeug.datastructures import MultiDict

from webapp import charts
from webapp.actions.comparison import COLUMNS, SCALES, View, as_csv, compare, drawn, runs_of
from webapp.actions.run_table import RunsView, rows_of_runs, runs_page
from webapp.actions.sharing import shares_of
from webapp.web.extensions import db

blueprint = Blueprint("compare", __name__)

PICKER_RUNS = 25  # on one page
PICKED = ("state", "size_bytes", "quality", "created")  # the picker's columns


@blueprint.get("/compare")
def index() -> str:
    view = View.read(request.args)
    choices = picked(view)
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


def csv_answer(text: str, filename: str = "compare.csv") -> Response:
    return Response(text, mimetype="text/csv", headers={"Content-Disposition": f'attachment; filename="{filename}"'})


def picked(view: View) -> dict[str, Any]:
    """What the picker shows: the runs that are chosen, and a page of the others that the search finds."""
    asked = MultiDict([(name, request.args[name]) for name in ("q", "from", "to") if name in request.args])
    search = replace(RunsView.read(asked), columns=PICKED)
    return {
        "search": search,
        "columns_picked": search.shown,
        "chosen": rows_of_runs(db.session, view.run_ids, search.shown),
        "found": runs_page(db.session, search, PICKER_RUNS),
    }


@blueprint.app_template_global()
def numbered(runs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """("1", the first run's name), …: the columns of the table of layers, as the address names them."""
    return [(str(number), run["name"]) for number, run in enumerate(runs, start=1)]
