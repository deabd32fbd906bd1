"""A run's model tried beside its original, and a deployment tried."""

from __future__ import annotations

from webapp.actions.deployments import deployment_of, require_here, tryout_deployment
from webapp.actions.tryout import TryoutInput, TryoutRequest, ask
from webapp.store.models import Deployment, DeploymentState, Run
from webapp.web.extensions import db, row_of, services

from . import schemas
from .endpoints import endpoint


@endpoint(
    "POST",
    "/runs/<id>/try",
    "What the original or the compressed model answers; it is started where it does not run",
    errors=(409, 503),
    example="""--json '{"side": "result", "text": "Once upon a time"}'""",
)
def try_run(id: str, body: TryoutRequest) -> schemas.TryoutAnswer:
    return _answer_of(tryout_deployment(db.session, services().settings.machine, row_of(Run, id), body.side), body)


@endpoint(
    "POST",
    "/deployments/<deployment>/try",
    "What a deployed model answers, asked without its token",
    errors=(503,),
    example="""--json '{"values": [1, 2, 3]}'""",
)
def try_deployment(deployment: str, body: TryoutInput) -> schemas.TryoutAnswer:
    row = deployment_of(db.session, deployment)
    require_here(row, services().settings.machine)
    return _answer_of(row, body)


def _answer_of(row: Deployment, asked: TryoutInput) -> schemas.TryoutAnswer:
    if row.state is not DeploymentState.READY or row.socket is None:
        return schemas.TryoutAnswer(state=row.state.value, reason=row.reason)
    db.session.close()
    return schemas.TryoutAnswer(state="ready", **ask(row, asked, services().settings.request_timeout_seconds))
