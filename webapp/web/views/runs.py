"""Runs: the list, and the page of one with its stages, log and result."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from plotly.graph_objects import Figure
from sqlalchemy import func, select
from sqlalchemy.orm import joinedload

from webapp import charts
from webapp.actions.compatibility import incompatible_formats
from webapp.actions.deletion import delete_run
from webapp.actions.deployments import deployable, deployed, served_formats
from webapp.actions.errors import NotFound
from webapp.actions.packages import offered
from webapp.actions.publishing import publications_of
from webapp.actions.run_notes import edit_run, read_edit
from webapp.actions.run_requests import cancel_run, retry_artifact, retry_run
from webapp.actions.samples import SampleRow, sample_of
from webapp.actions.sharing import shares_of
from webapp.engine.recipe import Recipe
from webapp.engine.techniques import techniques
from webapp.store.models import Checkpoint, LogLine, Run, RunState
from webapp.web.extensions import db, services

blueprint = Blueprint("runs", __name__, url_prefix="/runs")

PAGE = 50  # runs on one page of the list
LOG_LINES = 500  # the latest that the page holds


@blueprint.get("")
def index() -> str:
    """`?checkpoint=ID`, `?state=succeeded` and `?page=2` narrow the list; what is unknown narrows to nothing."""
    state, checkpoint_id = request.args.get("state", ""), request.args.get("checkpoint", "")
    wanted = []
    if checkpoint_id:
        wanted.append(Run.checkpoint_id == checkpoint_id)
    if state:
        wanted.append(Run.state == state)
    total = db.session.scalar(select(func.count(Run.id)).where(*wanted)) or 0
    pages = max(1, -(-total // PAGE))
    page = min(max(1, request.args.get("page", 1, type=int)), pages)
    runs = db.session.scalars(
        select(Run)
        .where(*wanted)
        .options(joinedload(Run.checkpoint).load_only(Checkpoint.name))
        .order_by(Run.created_at.desc(), Run.id)
        .limit(PAGE)
        .offset((page - 1) * PAGE)
    ).all()
    used = select(Checkpoint.id, Checkpoint.name).where(Checkpoint.runs.any()).order_by(Checkpoint.name)
    return render_template(
        "runs/index.html",
        runs=runs,
        total=total,
        page=page,
        pages=pages,
        state=state,
        checkpoint_id=checkpoint_id,
        states=[state.value for state in RunState],
        checkpoints=db.session.execute(used).all(),
    )


@blueprint.get("/<id>")
def show(id: str) -> str:
    run, settings = db.get_or_abort(Run, id), services().settings
    known, unfit = techniques(), incompatible_formats(run.checkpoint)
    newest = select(LogLine).where(LogLine.run_id == id).order_by(LogLine.id.desc()).limit(LOG_LINES)
    lines = list(reversed(db.session.scalars(newest).all()))
    return render_template(
        "runs/show.html",
        run=run,
        lines=lines,
        recipe=Recipe.model_validate(run.recipe),
        techniques=known,
        state=RunState(run.state),
        links=shares_of(db.session, [id]),
        drawn=drawn_of(run),
        given=given_sample(run),
        hub=settings.hub_url if settings.hub_token else "",
        publications=publications_of(db.session, run),
        packages=[target for target, _ in offered(run).values()],
        deployed={artifact.name: deployed(db.session, id, artifact.name) for artifact in deployable(run)},
        servable=[title for name, title in served_formats().items() if unfit[name] is None],
        trains=any(
            "training" in known[step["technique"]].needs for step in run.recipe["steps"] if step["technique"] in known
        ),
    )


def given_sample(run: Run) -> SampleRow | None:
    """The sample of the run that `?sample=RANK` has tried; None without one."""
    rank = request.args.get("sample", type=int)
    try:
        return None if rank is None else sample_of(services().files, run, rank)
    except NotFound:
        return None


@dataclass(frozen=True)
class StageCurve:
    """A chart of a stage, and the same as a table."""

    name: str
    stage: str
    quantity: str
    figure: Figure
    series: list[str]
    rows: list[tuple[float, list[float | None]]]


def drawn_of(run: Run) -> list[StageCurve]:
    """What the run's stages drew while they went on."""
    return [
        StageCurve(
            f"{stage.name}-{number}",
            stage.title,
            quantity,
            charts.stage_curve(stage.curves, quantity, stage.title),
            *charts.curve_rows(stage.curves, quantity),
        )
        for stage in run.stages
        if stage.curves
        for number, quantity in enumerate(charts.quantities(stage.curves))
    ]


@blueprint.get("/<id>/curves")
def curves(id: str) -> str:
    """The charts of a run under way, for its page."""
    return render_template("runs/curves.html", drawn=drawn_of(db.get_or_abort(Run, id)))


@blueprint.post("/<id>")
def change(id: str) -> ResponseReturnValue:
    """One form changes one thing or several: `name`, `notes`, `tags` (with commas between), `starred` (0 or 1)."""
    edit_run(db.session, db.get_or_abort(Run, id), read_edit(request.form))
    return redirect(url_for("runs.show", id=id))


@blueprint.post("/<id>/cancel")
def cancel(id: str) -> ResponseReturnValue:
    cancel_run(db.session, services().jobs, db.get_or_abort(Run, id))
    return redirect(url_for("runs.show", id=id))


@blueprint.post("/<id>/retry")
def retry(id: str) -> ResponseReturnValue:
    retry_run(db.session, services().jobs, db.get_or_abort(Run, id))
    return redirect(url_for("runs.show", id=id))


@blueprint.post("/<id>/artifacts/<path:name>/retry")
def retry_format(id: str, name: str) -> ResponseReturnValue:
    retry_artifact(db.session, services().jobs, db.get_or_abort(Run, id), name)
    return redirect(url_for("runs.show", id=id))


@blueprint.post("/<id>/delete")
def delete(id: str) -> ResponseReturnValue:
    run = db.get_or_abort(Run, id)
    delete_run(db.session, run)
    flash(f"{run.name} was deleted.")
    return redirect(url_for("runs.index"))
