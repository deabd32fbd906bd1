"""Deployments: models that answer at /serve/NAME."""

from __future__ import annotations

from webapp.actions import deployments, replays
from webapp.actions.deployments import DeploymentRequest
from webapp.actions.replays import ReplayReport, ReplayRequest
from webapp.actions.traffic import traffic_of
from webapp.store.models import Replay
from webapp.web.extensions import db, services

from .endpoints import endpoint
from .schemas import DeploymentAnswer, Items, NewDeploymentAnswer, ReplayAnswer, TrafficAnswer, TrafficQuery


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


@endpoint(
    "POST",
    "/deployments/<deployment>/replays",
    "Send the run's dataset through a deployment, maybe in turns with the original or another one",
    status=202,
    errors=(409, 503),
    example="""--json '{"samples": 500, "beside": "original"}'""",
)
def create_replay(deployment: str, body: ReplayRequest) -> ReplayAnswer:
    row = deployments.deployment_of(db.session, deployment)
    return _replay_answer(replays.start_replay(db.session, services().settings.machine, row, body))


@endpoint("GET", "/deployments/<deployment>/replays", "The last replays through a deployment, newest first")
def get_replays(deployment: str) -> Items[ReplayAnswer]:
    row = deployments.deployment_of(db.session, deployment)
    return Items[ReplayAnswer](items=[_replay_answer(each) for each in replays.replays_of(db.session, row)])


@endpoint("GET", "/deployments/<deployment>/replays/<id>", "A replay: how far it is, and what was measured")
def get_replay(deployment: str, id: str) -> ReplayAnswer:
    row = deployments.deployment_of(db.session, deployment)
    return _replay_answer(replays.replay_of(db.session, row, id))


@endpoint("POST", "/deployments/<deployment>/replays/<id>/stop", "Stop a replay; what it had measured is lost")
def stop_replay(deployment: str, id: str) -> ReplayAnswer:
    row = deployments.deployment_of(db.session, deployment)
    found = replays.replay_of(db.session, row, id)
    replays.stop_replay(db.session, found)
    return _replay_answer(found)


def _replay_answer(row: Replay) -> ReplayAnswer:
    report = ReplayReport.of(row)
    told = {name: getattr(row, name) for name in ReplayAnswer.model_fields if name != "sentences"}
    return ReplayAnswer(**told, sentences=report.sentences if report else [])
