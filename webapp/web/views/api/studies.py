"""Studies: runs that answer one question."""

from __future__ import annotations

from webapp.actions import studies
from webapp.actions.sharing import revoke, share_study, shares_of_study
from webapp.actions.studies import StudyRequest
from webapp.store.models import Study
from webapp.web.extensions import db, row_of, services

from . import schemas
from .answers import page, share_answer, study_answer
from .endpoints import endpoint


@endpoint(
    "POST",
    "/studies",
    "Start a study: a budget against uniform recipes, or the smallest file within a tolerance",
    status=202,
    errors=(404, 409),
    example="""--json '{"profile_id": "ID", "race": {"goal": {"ratio": 4}}}'""",
)
def create_study(body: StudyRequest) -> schemas.StudyAnswer:
    return study_answer(studies.start_study(db.session, services().jobs, body))


@endpoint("GET", "/studies", "Studies, newest first")
def get_studies(query: schemas.PageQuery) -> schemas.Page[schemas.StudySummary]:
    rows, next_ = page(Study, query)
    return schemas.Page[schemas.StudySummary](items=rows, next=next_)


@endpoint("GET", "/studies/<id>", "A study: its runs, and its answer once there is one")
def get_study(id: str) -> schemas.StudyAnswer:
    return study_answer(row_of(Study, id))


@endpoint("DELETE", "/studies/<id>", "Delete a study that has ended; its runs stay", status=204, errors=(409,))
def delete_study(id: str) -> None:
    studies.delete_study(db.session, row_of(Study, id))


@endpoint("POST", "/studies/<id>/cancel", "Cancel a study and its runs", status=202, errors=(409,))
def cancel_study(id: str) -> schemas.StudyAnswer:
    study = row_of(Study, id)
    studies.cancel_study(db.session, services().jobs, study)
    return study_answer(study)


@endpoint("POST", "/studies/<id>/shares", "Make a read-only link to a study", status=201)
def share_the_study(id: str) -> schemas.ShareAnswer:
    return share_answer(share_study(db.session, row_of(Study, id).id))


@endpoint("GET", "/studies/<id>/shares", "The links to a study")
def get_shares_of_study(id: str) -> schemas.Items[schemas.ShareAnswer]:
    links = shares_of_study(db.session, row_of(Study, id).id)
    return schemas.Items[schemas.ShareAnswer](items=[share_answer(link) for link in links])


@endpoint("DELETE", "/studies/<id>/shares", "Revoke every link to a study", status=204)
def revoke_shares_of_study(id: str) -> None:
    for link in shares_of_study(db.session, row_of(Study, id).id):
        revoke(db.session, link)
