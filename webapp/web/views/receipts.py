"""The receipt of a run: as a page that prints, and as JSON."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, render_template

from webapp import charts
from webapp.actions.errors import NotFound
from webapp.actions.file_names import downloaded, file_stem
from webapp.store.models import Run
from webapp.web.extensions import row_of

from .artifacts import disposition

blueprint = Blueprint("receipts", __name__, url_prefix="/runs")


@blueprint.get("/<id>/receipt")
def show(id: str) -> str:
    run = receipted(id)
    return render_template("receipts/show.html", run=run, receipt=run.receipt, figure=bytes_figure(run))


@blueprint.get("/<id>/receipt.json")
def download(id: str) -> Response:
    return json_answer(receipted(id))


def receipted(id: str) -> Run:
    """Raises NotFound where the run does not exist or has no receipt (yet)."""
    run = row_of(Run, id)
    require_receipt(run)
    return run


def require_receipt(run: Run) -> dict[str, Any]:
    if run.receipt is None:
        raise NotFound(f"The run {run.name} is {run.state}; a receipt is written when a run has succeeded.")
    return run.receipt


def bytes_figure(run: Run) -> Any:
    return charts.bytes_by_storage(require_receipt(run))


def json_answer(run: Run) -> Response:
    text = json.dumps(require_receipt(run), indent=2, ensure_ascii=False)
    named = disposition(downloaded(file_stem(run), "receipt.json"))
    return Response(text, mimetype="application/json", headers={"Content-Disposition": named})
