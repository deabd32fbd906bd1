"""What the layers of a run cost, and giving them back."""

from __future__ import annotations

from webapp.actions import blame
from webapp.store.models import Run
from webapp.web.extensions import db, row_of, services

from . import schemas
from .answers import run_answer
from .endpoints import endpoint


@endpoint("GET", "/runs/<id>/blame", "What each layer of a run costs, as expected and as measured", errors=(409, 422))
def get_blame(id: str) -> schemas.BlameAnswer:
    return schemas.BlameAnswer.model_validate(blame.blame_of(db.session, row_of(Run, id)))


@endpoint(
    "POST",
    "/runs/<id>/blame",
    "Give layers of a run back one by one and measure; the run keeps all that it has",
    status=202,
    errors=(409,),
    example="--json '{}'",
)
def measure_blame(id: str, body: schemas.BlameRequest) -> schemas.RunAnswer:
    run = row_of(Run, id)
    blame.measure_blame(db.session, services().jobs, run, body.layers)
    return run_answer(run)


@endpoint(
    "POST",
    "/runs/<id>/give-back",
    "Start a fork that leaves layers as they are in the original; the stages before are reused",
    status=202,
    errors=(409,),
    example="""--json '{"layers": ["NAME"]}'""",
)
def give_back(id: str, body: schemas.GiveBackRequest) -> schemas.RunAnswer:
    return run_answer(blame.give_back(db.session, services().jobs, row_of(Run, id), body.layers, body.name))
