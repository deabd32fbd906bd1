"""Datasets: the list, the upload, and how one was split."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import func, or_, select

from webapp.actions.deletion import delete_dataset
from webapp.actions.run_table import RunsView, rows_of_runs
from webapp.engine.data.inspect import READ
from webapp.engine.facts import DatasetFacts
from webapp.store.models import Dataset, Run, UploadState
from webapp.web.extensions import db, services
from webapp.web.previews import thumbnails

blueprint = Blueprint("datasets", __name__, url_prefix="/datasets")

KINDS = {
    "arrays": "Arrays",
    "text": "Plain text",
    "labelled-text": "Labelled text",
    "images": "Images",
    "multiple-choice": "Multiple-choice questions",
}


@blueprint.get("")
def index() -> str:
    used = or_(Run.dataset_id == Dataset.id, Run.training_dataset_id == Dataset.id)
    runs = select(func.count(Run.id)).where(used).scalar_subquery()
    rows = db.session.execute(select(Dataset, runs).order_by(Dataset.created_at.desc(), Dataset.id)).all()
    return render_template("datasets/index.html", rows=rows, kinds=KINDS)


@blueprint.get("/new")
def new() -> str:
    return render_template("datasets/new.html", accepted=READ, limit_bytes=services().settings.max_upload_bytes)


@blueprint.get("/<id>")
def show(id: str) -> str:
    dataset = db.get_or_abort(Dataset, id)
    if dataset.state != UploadState.READY:
        return render_template("datasets/pending.html", dataset=dataset)
    used = or_(Run.dataset_id == id, Run.training_dataset_id == id)
    ids = db.session.scalars(select(Run.id).where(used).order_by(Run.created_at.desc(), Run.id.desc()).limit(6)).all()
    columns = RunsView().shown
    runs = rows_of_runs(db.session, ids, columns)
    facts = DatasetFacts.model_validate(dataset.facts)
    images = thumbnails(services().files, dataset)
    shown = {"runs": runs, "run_columns": columns, "kinds": KINDS, "images": images}
    return render_template("datasets/show.html", dataset=dataset, facts=facts, **shown)


@blueprint.post("/<id>/delete")
def delete(id: str) -> ResponseReturnValue:
    dataset = db.get_or_abort(Dataset, id)
    delete_dataset(db.session, dataset)
    flash(f"{dataset.name} was deleted.")
    return redirect(url_for("datasets.index"))
