"""A run's model tried beside its original."""

from __future__ import annotations

from webapp.actions import tryout as trials
from webapp.actions.deployments import tried
from webapp.actions.tryout import TrialRequest
from webapp.store.models import DeploymentState, Run
from webapp.web.database import db
from webapp.web.extensions import services

from .deployment_schemas import TrialAnswer
from .endpoints import endpoint, row_of


@endpoint(
    "POST",
    "/runs/<id>/try",
    "What the original or the compressed model answers; it is started where it does not run",
    answer=TrialAnswer,
    body=TrialRequest,
    errors=(404, 409, 503),
    example="""--json '{"side": "result", "text": "Once upon a time"}'""",
)
def try_run(id: str, body: TrialRequest) -> TrialAnswer:
    found = services()
    row = tried(db.session, found.settings.machine, row_of(Run, id), body.side)
    if row.state is not DeploymentState.READY or row.socket is None:
        return TrialAnswer(state=row.state.value, reason=row.reason)
    db.session.close()
    return TrialAnswer(state="ready", **trials.ask(row, body, found.settings.request_timeout_seconds))
