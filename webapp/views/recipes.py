"""The recipe builder: a form whose cards come from what the techniques declare."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.orm import load_only

from ..database import db
from ..engine.errors import DatasetUnfit, PareError
from ..engine.facts import ArchitectureSpec, CheckpointFacts, DatasetFacts
from ..engine.techniques import techniques
from ..forms import RunForm, setting_rows, settings_form
from ..presets import PRESETS
from ..run_requests import RunRequest, check_dataset_fits, create_run
from ..services import services
from ..store.models import Checkpoint, Dataset, Run, UploadState
from ..units import byte_text

blueprint = Blueprint("recipes", __name__, url_prefix="/runs/new")

NO_DATASET = "None: quality is not measured"


@blueprint.get("")
def new() -> str:
    """`?checkpoint=ID` chooses it, `?dataset=ID` too; `?from=RUN` starts with that run's recipe and data."""
    form = RunForm()
    source = db.get_or_abort(Run, request.args["from"]) if "from" in request.args else None
    offer(form)
    if source is not None:
        form.checkpoint.data, form.dataset.data = source.checkpoint_id, source.dataset_id or ""
        form.training_dataset.data, form.seed.data = source.training_dataset_id or "", source.seed
        form.forked_from.data = source.id
        recipe = source.recipe
    else:
        recipe = PRESETS[0].recipe.as_dict()
        chosen = request.args.get("checkpoint") or (form.checkpoint.choices or [("", "")])[0][0]
        form.checkpoint.data = chosen
        fitting = [id_ for id_, reason in fit(chosen).items() if reason is None]
        form.dataset.data = request.args.get("dataset") or (fitting[-1] if fitting else "")
    form.recipe.data = json.dumps(recipe)
    return page(form, source=source)


@blueprint.post("")
def start() -> ResponseReturnValue:
    form = RunForm()
    offer(form)
    source = db.session.get(Run, form.forked_from.data) if form.forked_from.data else None
    if not form.validate():
        return page(form, source=source), 422
    try:
        asked = RunRequest(
            checkpoint_id=form.checkpoint.data,
            dataset_id=form.dataset.data or None,
            training_dataset_id=form.training_dataset.data or None,
            recipe=form.recipe.data or "",
            seed=form.seed.data or 0,
            name=form.name.data or None,
        )
        run = create_run(db.session, services().jobs, asked, forked_from_id=source.id if source else None)
    except PareError as error:
        return page(form, error, source), error.status
    return redirect(url_for("runs.show", id=run.id))


@blueprint.get("/datasets")
def datasets() -> dict[str, Any]:
    """Which datasets fit `?checkpoint=ID`: {"datasets": {id: null or the reason why not}}."""
    return {"datasets": fit(request.args.get("checkpoint", ""))}


def offer(form: RunForm) -> None:
    """Fills in what can be chosen: whatever is ready, newest first."""
    checkpoints = db.session.scalars(ready(Checkpoint))
    form.checkpoint.choices = [(c.id, f"{c.name} · {byte_text(c.size_bytes)}") for c in checkpoints]
    rows = [(d.id, d.name) for d in db.session.scalars(ready(Dataset))]
    form.dataset.choices = [("", NO_DATASET), *rows]
    form.training_dataset.choices = [("", "None: the training part of the dataset"), *rows]


def ready(table: Any) -> Any:
    columns = load_only(table.id, table.name, table.size_bytes)
    return select(table).options(columns).where(table.state == UploadState.READY).order_by(table.created_at.desc())


def fit(checkpoint_id: str) -> dict[str, str | None]:
    """For every dataset that is ready: None where it fits the checkpoint, else the sentence that says why not."""
    checkpoint = db.session.get(Checkpoint, checkpoint_id)
    if checkpoint is None or checkpoint.facts is None:
        return {}
    facts = architecture_only(checkpoint.facts)
    reasons: dict[str, str | None] = {}
    query = select(Dataset).where(Dataset.state == UploadState.READY).order_by(Dataset.created_at.desc())
    for dataset in db.session.scalars(query):
        reasons[dataset.id] = None
        try:
            check_dataset_fits(facts, DatasetFacts.model_validate(dataset.facts), dataset.name, "dataset_id")
        except DatasetUnfit as error:
            reasons[dataset.id] = error.message
    return reasons


def architecture_only(facts: dict[str, Any]) -> CheckpointFacts:
    """The facts without tensors and layers, which may be thousands and say nothing about datasets."""
    spec = facts.get("architecture")
    return CheckpointFacts(
        format=facts["format"],
        tensors=(),
        layers=(),
        architecture=ArchitectureSpec.model_validate(spec) if spec else None,
        weights_only_because=facts.get("weights_only_because"),
        weights_bytes=facts["weights_bytes"],
    )


def page(form: RunForm, error: PareError | None = None, source: Run | None = None) -> str:
    known = techniques()
    return render_template(
        "recipes/new.html",
        form=form,
        source=source,
        techniques=known,
        rows={name: setting_rows(technique.Settings) for name, technique in known.items()},
        cards={name: settings_form(technique.Settings)(prefix="__i__-") for name, technique in known.items()},
        presets=PRESETS,
        fit=fit(form.checkpoint.data or ""),
        error=error.as_dict() if error else None,
    )
