"""Deployments: the list, and the page of one with what a client needs."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import ValidationError

from webapp import charts
from webapp.actions import deployments, replays
from webapp.actions.deployments import DeploymentRequest, ModelSide, deployment_of
from webapp.actions.errors import BodyInvalid
from webapp.actions.replays import ReplayReport, ReplayRequest
from webapp.actions.snippets import snippets
from webapp.actions.traffic import traffic_of
from webapp.engine.errors import PareError
from webapp.store.models import Deployment
from webapp.web.calls import MadeBy
from webapp.web.extensions import db, services
from webapp.web.security import show_once, shown_once

from .runs import given_sample

blueprint = Blueprint("deployments", __name__)

IN_THE_FORM = {  # what each field of it takes
    "samples": f"Samples at most is a whole number from 1 to {replays.MOST_SAMPLES:,}.",
    "seconds": f"Seconds at most is a number from 1 to {replays.MOST_SECONDS:,}.",
    "beside": "Choose from the list what it is sent in turns with.",
}
TOKEN = "deployment"  # noqa: S105 - the kind that is shown once


@blueprint.get("/deployments")
def index() -> str:
    return render_template("deployments/index.html", deployments=deployments.deployments(db.session))


@blueprint.get("/deployments/<name>")
def show(name: str) -> str:
    return page_of(deployment_of(db.session, name))


def page_of(row: Deployment, error: PareError | None = None) -> str:
    """`error` is what was wrong with a replay that was asked for."""
    name = row.name
    token = shown_once(TOKEN, name)
    traffic = traffic_of(db.session, row, "day" if request.args.get("traffic") == "day" else "hour")
    drawn = traffic.steps, traffic.step_minutes, traffic.whole.at, traffic.until
    base = url_for("serve.pass_on", name=name, path="v1", _external=True).removesuffix("/v1")
    parts = replay_parts(row)
    return render_template(
        "deployments/show.html",
        made_by=parts["report"] and MadeBy(f"/deployments/{name}/replays", replays.asked_of(parts["report"].replay)),
        deployment=row,
        base=base,
        token=token,
        snippets=snippets(row, base, token),
        given=given_sample(row.run),
        error=error,
        **parts,
        traffic=traffic,
        latency=charts.latency_over_time(*drawn),
        arrived=charts.requests_over_time(*drawn),
    )


def replay_parts(row: Deployment) -> dict[str, Any]:
    """Of the page: the replay that is under way, the report that is shown (`?replay=ID`, else the last), and all."""
    known = replays.replays_of(db.session, row)
    latest = known[0] if known else None
    asked = request.args.get("replay") or next((each.id for each in known if each.result is not None), None)
    report = next((ReplayReport.of(each) for each in known if each.id == asked), None)
    return {
        "latest": latest,
        "replays": [each for each in known if each.result is not None],
        "report": report,
        "shares": charts.latency_shares({side.title: side.shares for side in report.sides}) if report else None,
        "why_not": replays.why_no_replay(row),
        "comparable": replays.comparable(db.session, row),
        "original_servable": replays.original_servable(row.run) and not row.of_original,
        "deployed_original": replays.deployed_original(db.session, row),
        "most_samples": replays.MOST_SAMPLES,
        "most_seconds": replays.MOST_SECONDS,
    }


@blueprint.post("/deployments/<name>/replays")
def replay(name: str) -> ResponseReturnValue:
    row = deployment_of(db.session, name)
    given = {key: value for key in ReplayRequest.model_fields if (value := request.form.get(key, "").strip())}
    try:
        asked = ReplayRequest.model_validate(given)
        replays.start_replay(db.session, services().settings.machine, row, asked)
    except ValidationError as invalid:
        field = str(invalid.errors()[0]["loc"][0])
        return page_of(row, BodyInvalid(IN_THE_FORM[field], field)), BodyInvalid.status
    except PareError as error:
        return page_of(row, error), error.status
    return redirect(url_for(".show", name=name, _anchor="replay"))


@blueprint.post("/deployments/<name>/replays/<id>/stop")
def stop_replay(name: str, id: str) -> ResponseReturnValue:
    row = deployment_of(db.session, name)
    replays.stop_replay(db.session, replays.replay_of(db.session, row, id))
    return redirect(url_for(".show", name=name, _anchor="replay"))


@blueprint.post("/runs/<id>/deployments")
def create(id: str) -> ResponseReturnValue:
    side: ModelSide = "original" if request.form.get("side") == "original" else "result"
    asked = DeploymentRequest(run_id=id, artifact=request.form.get("artifact"), side=side)
    before = deployments.deployed(db.session, id, asked.artifact or "") if side == "result" else []
    row, token = deployments.create_deployment(db.session, services().settings.machine, asked)
    if before:
        flash(
            f"{row.artifact} of this run was deployed already, as {', '.join(before)}, and still is. "
            f"{row.name} is one more, with a process and a token of its own; delete what you do not need."
        )
    show_once(TOKEN, row.name, token)
    return redirect(url_for(".show", name=row.name))


@blueprint.post("/deployments/<name>/restart")
def restart(name: str) -> ResponseReturnValue:
    deployments.restart(db.session, deployment_of(db.session, name))
    return redirect((request.form.get("next") == "list" and url_for(".index")) or url_for(".show", name=name))


@blueprint.post("/deployments/<name>/stop")
def stop(name: str) -> ResponseReturnValue:
    deployments.stop(db.session, deployment_of(db.session, name))
    return redirect((request.form.get("next") == "list" and url_for(".index")) or url_for(".show", name=name))


@blueprint.post("/deployments/<name>/token")
def renew(name: str) -> ResponseReturnValue:
    show_once(TOKEN, name, deployments.new_token(db.session, deployment_of(db.session, name)))
    return redirect(url_for(".show", name=name))


@blueprint.post("/deployments/<name>/delete")
def delete(name: str) -> ResponseReturnValue:
    deployments.delete(db.session, deployment_of(db.session, name))
    flash(f"{name} is deleted; nothing answers at its address any more.")
    return redirect(url_for(".index"))
