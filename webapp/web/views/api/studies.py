"""Studies: runs that answer one question."""

from __future__ import annotations

from flask import Response

from webapp.actions import studies
from webapp.actions.comparison import as_rows
from webapp.actions.errors import Conflict
from webapp.actions.sharing import revoke, share_study, shares_of_study
from webapp.actions.studies import MoreAsked, StudyRequest
from webapp.actions.sweeps import GATHERED, StudyPlan, table_of, told
from webapp.engine.recipe import lines_named
from webapp.store.models import Study
from webapp.web.extensions import db, row_of, services

from . import schemas
from .answers import page, share_answer, study_answer
from .endpoints import endpoint


@endpoint(
    "POST",
    "/studies",
    "Start a study: a sweep, a front of budgets, a budget against uniform recipes, or the smallest within a tolerance",
    status=202,
    errors=(404, 409),
    example="""--json '{"profile_id": "ID", "race": {"goal": {"ratio": 4}}}'""",
)
def create_study(body: StudyRequest) -> schemas.StudyAnswer:
    with lines_named(body.sweep.recipe if body.sweep else None):
        return study_answer(studies.start_study(db.session, services().jobs, body))


@endpoint(
    "POST",
    "/studies/plan",
    "What a sweep will run, and the time and bytes that it will take; nothing is started",
    errors=(404, 409),
    example="""--json '{"sweep": {"checkpoint_id": "ID", "recipe": {"version": 2, "steps": [{"technique": """
    """"magnitude_pruning", "settings": {"sparsity": "0.3..0.8 step 0.1"}}]}}}'""",
)
def plan_study(body: StudyRequest) -> StudyPlan:
    with lines_named(body.sweep.recipe if body.sweep else None):
        return studies.plan_study(db.session, body)


@endpoint("GET", "/studies", "Studies, newest first")
def get_studies(query: schemas.PageQuery) -> schemas.Page[schemas.StudySummary]:
    rows, next_ = page(Study, query)
    return schemas.Page[schemas.StudySummary](items=rows, next=next_)


@endpoint("GET", "/studies/<id>", "A study: its runs, and its answer once there is one")
def get_study(id: str, query: schemas.StudyQuery) -> schemas.StudyAnswer:
    return study_answer(row_of(Study, id), query.metric)


@endpoint("GET", "/studies/<id>/table.csv", "A sweep's or a front's table as CSV", media_type="text/csv", errors=(409,))
def get_study_csv(id: str, query: schemas.StudyQuery) -> Response:
    study = row_of(Study, id)
    if study.kind not in GATHERED:
        raise Conflict("Only a sweep and a front have a table as CSV; compare the runs of this study.")
    text = as_rows(table_of(told(db.session, study, query.metric)))
    return Response(text, mimetype="text/csv", headers={"Content-Disposition": "attachment; filename=study.csv"})


@endpoint("DELETE", "/studies/<id>", "Delete a study that has ended; its runs stay", status=204, errors=(409,))
def delete_study(id: str, query: schemas.DeleteStudyQuery) -> None:
    studies.delete_study(db.session, row_of(Study, id), query.runs)


@endpoint(
    "POST",
    "/studies/<id>/extend",
    "Add runs to a sweep or a front; those that are there already are not begun again",
    status=202,
    errors=(409,),
    example="""--json '{"recipe": {"version": 2, "steps": [{"technique": "magnitude_pruning", "settings": """
    """{"sparsity": [0.85, 0.9]}}]}}'""",
)
def extend_study(id: str, body: MoreAsked) -> schemas.StudyAnswer:
    study = row_of(Study, id)
    with lines_named(body.recipe):
        studies.extend_study(db.session, services().jobs, study, body)
    return study_answer(study)


@endpoint("POST", "/studies/<id>/retry", "Try again the runs that failed or were cancelled", status=202, errors=(409,))
def retry_study(id: str) -> schemas.StudyAnswer:
    study = row_of(Study, id)
    studies.retry_study(db.session, services().jobs, study)
    return study_answer(study)


@endpoint(
    "POST",
    "/studies/<id>/take",
    "Choose the run of a study to go on with",
    errors=(409,),
    example="""--json '{"run_id": "ID"}'""",
)
def take_run(id: str, body: schemas.TakeRequest) -> schemas.StudyAnswer:
    study = row_of(Study, id)
    studies.take_run(db.session, study, body.run_id)
    return study_answer(study)


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
