"""What original and result answered, sample by sample: flips, classes, the worst first. The address holds the view."""

from __future__ import annotations

from typing import NamedTuple

from flask import Blueprint, render_template, request
from plotly.graph_objects import Figure

from webapp import charts
from webapp.actions.compared_runs import runs_of
from webapp.actions.deployments import deployable
from webapp.actions.errors import NotFound
from webapp.actions.sample_comparison import compare_samples
from webapp.actions.samples import (
    COLOURED_BY,
    OUTCOME_TITLES,
    Confusion,
    KeptSamples,
    SampleFilter,
    samples_page,
    why_no_samples,
)
from webapp.store.models import Run
from webapp.web.extensions import db, services

blueprint = Blueprint("samples", __name__)

MOST_MISTAKES = 30
MOST_OFFERED = 200  # classes in a list to choose from; beyond it they are written by their number


class Mistake(NamedTuple):
    """`count_` samples of a row's class that were taken for a column's; `query` of the address that shows them."""

    row: int
    column: int
    count_: int
    query: str


@blueprint.get("/runs/<id>/samples")
def show(id: str) -> str:
    run = db.get_or_abort(Run, id)
    if why := why_no_samples(run):
        return render_template("samples/none.html", run=run, why=why)
    found = samples_page(services().files, run, SampleFilter.read(request.args))
    return render_template(
        "samples/show.html",
        run=run,
        page=found,
        kept=found.kept,
        about=found.kept.about,
        view=found.view,
        classes=found.kept.classes(),
        choosable=choosable(found.kept),
        figures=confusion_figures(found.kept, found.view),
        titles=OUTCOME_TITLES,
        coloured_by=COLOURED_BY,
        servable=bool(deployable(run)),
    )


@blueprint.get("/compare/samples")
def compare() -> str:
    """`?run=ID` for each run, `&lost=ID` for the samples that this run loses, `&after=` for the next page."""
    ids, lost_by = list(dict.fromkeys(request.args.getlist("run"))), request.args.get("lost", "")
    runs = runs_of(db.session, ids)
    found, why = None, "Choose the runs on the comparison's page."
    try:
        found = (
            compare_samples(services().files, runs, lost_by, request.args.get("after", -1, type=int)) if runs else None
        )
    except NotFound as error:
        why = error.message
    return render_template("samples/compare.html", runs=runs, found=found, why=why, lost_by=lost_by)


def choosable(kept: KeptSamples) -> list[tuple[int, str]]:
    """The classes that there are, to filter by; empty where they are too many, or samples are of none."""
    if kept.about["kind"] != "classes":
        return []
    columns = [kept.columns[name] for name in ("label", "original_class", "result_class") if name in kept.columns]
    numbers = sorted({int(number) for column in columns for number in column if number == number})
    return [(number, kept.name_of(number)) for number in numbers] if len(numbers) <= MOST_OFFERED else []


def confusion_figures(kept: KeptSamples, view: SampleFilter) -> list[tuple[Confusion, Figure, list[Mistake]]]:
    """Of each side its confusion, the chart of it, and its largest mistakes."""
    found = []
    for confusion in kept.confusions():
        names = [kept.name_of(number) for number in confusion.classes]
        labelled = "label" in kept.columns
        rows_are = "Is" if labelled else "By the original"
        drawn = charts.confusion_matrix(
            confusion.matrix, names, rows_are, f"By the {confusion.side}", f"Confusion, {confusion.side}"
        )
        nowhere = {"label": None, "original": None, "result": None}
        row_name = "label" if labelled else "original"
        mistakes = [
            Mistake(row, column, count, view.query(**nowhere | {row_name: row, confusion.side: column}))
            for row, counts in zip(confusion.classes, confusion.matrix, strict=True)
            for column, count in zip(confusion.classes, counts, strict=True)
            if count and row != column
        ]
        found.append((confusion, drawn, sorted(mistakes, key=lambda each: -each.count_)[:MOST_MISTAKES]))
    return found
