"""Runs side by side. The whole state is in the address: runs or studies, axes, colour, zoom, sorting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, render_template, request
from werkzeug.datastructures import MultiDict

from webapp.actions.compared_runs import drawn, runs_of_studies
from webapp.actions.comparison import SCALES, SIDE_BY_SIDE, Comparison, View, as_csv, compare
from webapp.actions.layer_diff import FIGURES
from webapp.actions.run_table import RunsView, rows_of_runs, runs_page
from webapp.actions.sharing import shares_of
from webapp.web.extensions import db

blueprint = Blueprint("compare", __name__)

PICKER_RUNS = 25  # on one page
PICKED_MOST = 100  # chosen ones, whose ticks can be taken away; of more one chooses anew
PICKED = ("state", "size_bytes", "quality", "created")  # the picker's columns


@blueprint.get("/compare")
def index() -> str:
    view = View.read(request.args)
    run_ids = ids_of(view)
    choices = picked(run_ids)
    if not run_ids:
        return render_template("compare/pick.html", choices=choices, view=view)
    found = compare(view, drawn(db.session, run_ids))
    return render_template(
        "compare/show.html",
        comparison=found,
        run_ids=run_ids,
        choices=choices,
        scales=SCALES,
        links=shares_of(db.session, run_ids, comparison=True),
    )


@blueprint.get("/compare.csv")
def table() -> Response:
    return csv_answer(as_csv(asked(View.read(request.args))))


def ids_of(view: View) -> list[str]:
    """Of the runs that it names, and of those of its studies. Raises NotFound."""
    return list(dict.fromkeys([*view.run_ids, *runs_of_studies(db.session, view.study_ids)]))


def asked(view: View) -> Comparison:
    """Raises NotFound and RequestInvalid."""
    return compare(view, drawn(db.session, ids_of(view)))


def csv_answer(text: str, filename: str = "compare.csv") -> Response:
    return Response(text, mimetype="text/csv", headers={"Content-Disposition": f'attachment; filename="{filename}"'})


def picked(run_ids: list[str]) -> dict[str, Any]:
    """What the picker shows: the runs that are chosen, and a page of the others that the search finds."""
    asked = MultiDict([(name, request.args[name]) for name in ("q", "from", "to") if name in request.args])
    search = replace(RunsView.read(asked), columns=PICKED)
    return {
        "search": search,
        "columns_picked": search.shown,
        "chosen": rows_of_runs(db.session, run_ids if len(run_ids) <= PICKED_MOST else [], search.shown),
        "found": runs_page(db.session, search, PICKER_RUNS),
    }


@blueprint.app_context_processor
def told_of_differences() -> dict[str, Any]:
    return {"layer_figures": FIGURES, "side_by_side": SIDE_BY_SIDE}
