"""Prompts of one's own, answered by original and result."""

from __future__ import annotations

from webapp.actions import prompts
from webapp.actions.prompts import PromptsRequest
from webapp.store.models import Run
from webapp.web.extensions import db, row_of, services

from . import schemas
from .answers import run_answer
from .endpoints import endpoint


@endpoint("GET", "/runs/<id>/prompts", "Prompts that a run's original and result answered, the newest first")
def get_prompts(id: str) -> schemas.Items[schemas.AskedPromptsAnswer]:
    rows = [schemas.AskedPromptsAnswer.model_validate(row) for row in prompts.prompts_of(row_of(Run, id))]
    return schemas.Items[schemas.AskedPromptsAnswer](items=rows)


@endpoint(
    "POST",
    "/runs/<id>/prompts",
    "Have original and result of a language model write on from prompts, by their likeliest tokens",
    status=202,
    errors=(409,),
    example="""--json '{"prompts": ["The best way to"], "max_tokens": 32}'""",
)
def ask_prompts(id: str, body: PromptsRequest) -> schemas.RunAnswer:
    run = row_of(Run, id)
    prompts.ask_prompts(db.session, services().files, services().jobs, run, body)
    return run_answer(run)


@endpoint("DELETE", "/runs/<id>/prompts/<name>", "Delete prompts and their answers", status=204, errors=(409,))
def delete_prompts(id: str, name: str) -> None:
    prompts.delete_prompts(db.session, row_of(Run, id), name)
