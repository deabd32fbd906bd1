"""A run's model tried beside its original."""

from __future__ import annotations

from webapp.actions.deployments import tryout_deployment
from webapp.actions.tryout import TryoutRequest, ask
from webapp.store.models import DeploymentState, Run
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
    found = services()
    row = tryout_deployment(db.session, found.settings.machine, row_of(Run, id), body.side)
    if row.state is not DeploymentState.READY or row.socket is None:
        return schemas.TryoutAnswer(state=row.state.value, reason=row.reason)
    db.session.close()
    return schemas.TryoutAnswer(state="ready", **ask(row, body, found.settings.request_timeout_seconds))
