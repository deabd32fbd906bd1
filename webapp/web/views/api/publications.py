"""Results that are pushed to the hub."""

from __future__ import annotations

from webapp.actions.publishing import publications_of, publish_run
from webapp.store.models import Run
from webapp.web.extensions import db, importing, row_of

from . import schemas
from .endpoints import endpoint


@endpoint(
    "POST",
    "/runs/<id>/publications",
    "Push what a run delivered to the hub, with its receipt as the model card",
    status=202,
    errors=(409,),
    example="""--json '{"repo_id": "owner/model-4bit"}'""",
)
def create_publication(id: str, body: schemas.PublicationRequest) -> schemas.PublicationAnswer:
    row = publish_run(row_of(Run, id), body.repo_id, body.private, **importing())
    return schemas.PublicationAnswer.model_validate(row)


@endpoint("GET", "/runs/<id>/publications", "Where a run's result was pushed, newest first")
def get_publications(id: str) -> schemas.Items[schemas.PublicationAnswer]:
    rows = publications_of(db.session, row_of(Run, id))
    return schemas.Items[schemas.PublicationAnswer](
        items=[schemas.PublicationAnswer.model_validate(row) for row in rows]
    )
