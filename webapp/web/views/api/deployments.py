"""Deployments: models that answer at /serve/NAME."""

from __future__ import annotations

from webapp.actions import deployments
from webapp.actions.deployments import DeploymentRequest
from webapp.actions.traffic import traffic_of
from webapp.web.extensions import db, services

from .endpoints import endpoint
from .schemas import DeploymentAnswer, Items, NewDeploymentAnswer, TrafficAnswer, TrafficQuery


@endpoint(
    "POST",
    "/deployments",
    "Serve one of a run's files; the token in the answer is told this once",
    status=201,
    errors=(404, 409),
    example="""--json '{"run_id": "ID", "artifact": "model.onnx"}'""",
)
def create_deployment(body: DeploymentRequest) -> NewDeploymentAnswer:
    row, token = deployments.create_deployment(db.session, services().settings.machine, body)
    return NewDeploymentAnswer(**DeploymentAnswer.model_validate(row).model_dump(), token=token)


@endpoint("GET", "/deployments", "The models that are served, newest first")
def get_deployments() -> Items[DeploymentAnswer]:
    return Items[DeploymentAnswer](items=deployments.deployments(db.session))


@endpoint("GET", "/deployments/<deployment>", "A deployment: its state, and the signature of its model")
def get_deployment(deployment: str) -> DeploymentAnswer:
    return DeploymentAnswer.model_validate(deployments.deployment_of(db.session, deployment))


@endpoint(
    "GET",
    "/deployments/<deployment>/traffic",
    "Requests, errors and latency of the last hour or day, as the model's process measured them",
)
def get_traffic(deployment: str, query: TrafficQuery) -> TrafficAnswer:
    row = deployments.deployment_of(db.session, deployment)
    return TrafficAnswer.model_validate(traffic_of(db.session, row, query.window))


@endpoint("DELETE", "/deployments/<deployment>", "Stop serving a model and forget it", status=204)
def delete_deployment(deployment: str) -> None:
    deployments.delete(db.session, deployments.deployment_of(db.session, deployment))


@endpoint("POST", "/deployments/<deployment>/stop", "Stop serving a model; restart serves it again", status=202)
def stop_deployment(deployment: str) -> DeploymentAnswer:
    row = deployments.deployment_of(db.session, deployment)
    deployments.stop(db.session, row)
    return DeploymentAnswer.model_validate(row)


@endpoint("POST", "/deployments/<deployment>/restart", "Serve a model in a new process", status=202)
def restart_deployment(deployment: str) -> DeploymentAnswer:
    row = deployments.deployment_of(db.session, deployment)
    deployments.restart(db.session, row)
    return DeploymentAnswer.model_validate(row)


@endpoint(
    "POST", "/deployments/<deployment>/token", "A new token in place of the one before, which ends at once", status=201
)
def renew_token(deployment: str) -> NewDeploymentAnswer:
    row = deployments.deployment_of(db.session, deployment)
    token = deployments.new_token(db.session, row)
    return NewDeploymentAnswer(**DeploymentAnswer.model_validate(row).model_dump(), token=token)
