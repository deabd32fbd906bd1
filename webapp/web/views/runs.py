"""Runs: the table, and the page of one with its stages, log and result."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import cast

from flask import (
    Blueprint,
    Response,
    flash,
    get_template_attribute,
    jsonify,
    redirect,
    render_template,
    request,
    url_for,
)
from flask.typing import ResponseReturnValue
from plotly.graph_objects import Figure
from sqlalchemy import func, select

from webapp import charts
from webapp.actions.beside import beside
from webapp.actions.compatibility import incompatible_formats, other_data
from webapp.actions.deletion import delete_run
from webapp.actions.deployments import deployable, deployed, served_formats
from webapp.actions.errors import BodyInvalid, NotFound, RequestInvalid
from webapp.actions.lineage import lineage_of_run
from webapp.actions.packages import offered
from webapp.actions.publishing import publications_of
from webapp.actions.run_actions import MOST, RunAction, chosen, foreseen_deletion, perform
from webapp.actions.run_columns import choices, techniques_used
from webapp.actions.run_notes import edit_run, read_edit
from webapp.actions.run_requests import RunChanges, cancel_run, fork_request, retry_artifact, retry_run
from webapp.actions.run_table import PAGE, RunsView, count, csv_lines, ids_of, rows_of_runs, runs_page
from webapp.actions.samples import SampleRow, sample_of
from webapp.actions.sharing import shares_of
from webapp.engine.errors import PareError
from webapp.engine.recipe import Recipe
from webapp.engine.techniques import techniques
from webapp.store.clock import now
from webapp.store.models import Checkpoint, Dataset, LogLine, Run, RunState, RunTag, Study
from webapp.web.calls import MadeBy
from webapp.web.compression import unless_known
from webapp.web.display import STATE_LOOKS
from webapp.web.extensions import db, services
from webapp.web.refusals import RefusedField, back_with

blueprint = Blueprint("runs", __name__, url_prefix="/runs")

LOG_LINES = 500  # the latest that the page holds
OFFERED = 200  # checkpoints, datasets, studies or tags to choose from in a filter; others can be named in the address
POLLED = 100  # rows that are asked for at once


@blueprint.get("")
def index() -> ResponseReturnValue:
    """The table; its address holds the whole view (see RunsView). With `form` it comes from the filters' form, whose
    address is long, and is led to the short one."""
    view = RunsView.read(request.args)
    if "form" in request.args:
        return redirect(url_for("runs.index") + view.query(q=view.q.strip()))
    return table_page(view)


def table_page(view: RunsView, refused: RefusedField | None = None, ticked: Collection[str] = ()) -> str:
    return render_template(
        "runs/index.html",
        refused=refused,
        ticked=ticked,
        view=view,
        page=runs_page(db.session, view),
        columns=view.shown,
        choices=choices(db.session),
        filters=filters(view),
        begun=now().isoformat(),
    )


def filters(view: RunsView) -> list[tuple[str, str, str, list[tuple[str, str]]]]:
    """(parameter, label, what is chosen, its choices as (value, label)) of each filter that narrows by one thing."""
    made = []
    for name, label, table, column in (
        ("checkpoint", "Checkpoint", Checkpoint, Run.checkpoint_id),
        ("dataset", "Dataset", Dataset, Run.dataset_id),
        ("study", "Study", Study, Run.study_id),
    ):
        chosen = getattr(view, name)
        asked = select(table.id, table.name).where(select(Run.id).where(column == table.id).exists())
        found = list(db.session.execute(asked.order_by(table.created_at.desc()).limit(OFFERED)).tuples())
        if chosen and chosen not in dict(found):
            row = db.session.get(table, chosen)
            found.append((chosen, row.name if row else "Not there"))
        made.append((name, label, chosen, sorted(found, key=lambda pair: pair[1].lower())))
    tags = db.session.scalars(select(RunTag.tag).group_by(RunTag.tag).order_by(func.count().desc()).limit(OFFERED))
    states = {state.value: STATE_LOOKS[state.value][0] for state in RunState}
    for name, label, chosen, known in (
        ("state", "State", view.state, states),
        ("technique", "Technique", view.technique, techniques_used(db.session)),
        ("tag", "Tag", "".join(view.tags[:1]), {tag: tag for tag in sorted(tags)}),
    ):
        made.append((name, label, chosen, list((known | ({} if chosen in ("", *known) else {chosen: chosen})).items())))
    return made


@blueprint.get("/rows")
def rows() -> Response:
    """What these rows (`run`) are now, as HTML by id; how many runs match, and how many of them were made `since`.

    The newest of these come as rows too where the view has them on top. Asked for again and again by pages that are
    open: where nothing has changed the answer is 304, without a template.
    """
    view, since = RunsView.read(request.args), moment_of(request.args.get("since", ""))
    added = ids_of(db.session, view, PAGE, since) if view.at_top else []
    shown = rows_of_runs(db.session, [*added, *request.args.getlist("run")[:POLLED]], view.shown)
    told = (shown, count(db.session, view), count(db.session, view, since))

    def answer() -> Response:
        row = get_template_attribute("runs/rows.html", "run_row")
        html = {run.id: str(row(run, view.shown, True)) for run in shown}
        return jsonify(rows=html, added=added, total=told[1], fresh=told[2])

    return unless_known(repr(told), answer)


def moment_of(text: str) -> datetime:
    """Raises RequestInvalid."""
    wrong = RequestInvalid("`since` is a time with its zone, such as 2026-01-31T12:00:00+00:00.", "since")
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise wrong
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):  # in UTC it may be before the first year, or after the last
        raise wrong from None


@blueprint.get("/table.csv")
def table() -> Response:
    """All runs of the view, with its columns."""
    return csv_of(RunsView.read(request.args))


def csv_of(view: RunsView) -> Response:
    text = "".join(csv_lines(db.session, view))
    return Response(text, mimetype="text/csv", headers={"Content-Disposition": 'attachment; filename="runs.csv"'})


@blueprint.post("/actions")
def act() -> ResponseReturnValue:
    """Does the `action` to the runs ticked (`run`), or to `all` that match the view, which the address holds.

    Deleting is asked first: it is done where `sure` has the number of runs that was told, and asked again where that
    has changed since.
    """
    view, form = RunsView.read(request.args), request.form
    action = cast("RunAction", form.get("action", ""))
    if action not in MOST:
        raise RequestInvalid(f"{action[:40]!r} is nothing that is done to runs here.", "action")
    ids = chosen(db.session, action, form.getlist("run"), view if form.get("all") == "1" else None)
    if action == "compare":
        return redirect(url_for("compare.index", run=ids))
    if action == "delete" and form.get("sure") != str(len(ids)):
        what = foreseen_deletion(db.session, ids)
        return render_template("runs/delete.html", view=view, ids=ids, what=what, all="all" in form)
    try:
        performed = perform(db.session, services().jobs, action, ids, form.get("tags", "").split(","))
    except BodyInvalid as error:
        return back_with(error, partial(table_page, ticked=form.getlist("run")), view)
    flash(performed.sentence, "message" if performed.done else "error")
    return redirect(url_for("runs.index") + view.query(after=view.after, until=view.until))


@blueprint.get("/<id>")
def show(id: str) -> str:
    return page(db.get_or_abort(Run, id))


def page(run: Run, refused: RefusedField | None = None) -> str:
    id, settings = run.id, services().settings
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
        lineage=lineage_of_run(db.session, run),
        like=beside(run, services().files),
        other_data=other_data(db.session, run),
        refused=refused,
        drawn=drawn_of(run),
        made_by=MadeBy("/runs", fork_request(run, RunChanges())),
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
    run = db.get_or_abort(Run, id)
    try:
        edit_run(db.session, run, read_edit(request.form))
    except PareError as error:
        return back_with(error, page, run)
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
