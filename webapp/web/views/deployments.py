"""Deployments: the list, and the page of one with what a client needs."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue

from webapp import charts
from webapp.actions import deployments
from webapp.actions.deployments import DeploymentRequest, deployment_of
from webapp.actions.snippets import snippets
from webapp.actions.traffic import traffic_of
from webapp.web.extensions import db, services

from .runs import given_sample

blueprint = Blueprint("deployments", __name__)

TOKEN = "new_token"  # in the session, until the page has shown it  # noqa: S105


@blueprint.get("/deployments")
def index() -> str:
    return render_template("deployments/index.html", deployments=deployments.deployments(db.session))


@blueprint.get("/deployments/<name>")
def show(name: str) -> str:
    row = deployment_of(db.session, name)
    token = told["token"] if (told := session.pop(TOKEN, None)) and told["name"] == name else None
    traffic = traffic_of(db.session, row, "day" if request.args.get("traffic") == "day" else "hour")
    drawn = traffic.steps, traffic.step_minutes, traffic.whole.at, traffic.until
    base = url_for("serve.pass_on", name=name, path="v1", _external=True).removesuffix("/v1")
    return render_template(
        "deployments/show.html",
        deployment=row,
        base=base,
        token=token,
        snippets=snippets(row, base, token),
        given=given_sample(row.run),
        traffic=traffic,
        latency=charts.latency_over_time(*drawn),
        arrived=charts.requests_over_time(*drawn),
    )


@blueprint.post("/runs/<id>/deployments")
def create(id: str) -> ResponseReturnValue:
    asked = DeploymentRequest(run_id=id, artifact=request.form.get("artifact"))
    before = deployments.deployed(db.session, id, asked.artifact or "")
    row, token = deployments.create_deployment(db.session, services().settings.machine, asked)
    if before:
        flash(
            f"{row.artifact} of this run was deployed already, as {', '.join(before)}, and still is. "
            f"{row.name} is one more, with a process and a token of its own; delete what you do not need."
        )
    session[TOKEN] = {"name": row.name, "token": token}
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
    session[TOKEN] = {"name": name, "token": deployments.new_token(db.session, deployment_of(db.session, name))}
    return redirect(url_for(".show", name=name))


@blueprint.post("/deployments/<name>/delete")
def delete(name: str) -> ResponseReturnValue:
    deployments.delete(db.session, deployment_of(db.session, name))
    flash(f"{name} is deleted; nothing answers at its address any more.")
    return redirect(url_for(".index"))
