"""Prompts of one's own, and what original and result of a run answered them."""

from __future__ import annotations

from functools import partial

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import ValidationError

from webapp.actions import prompts
from webapp.actions.errors import BodyInvalid
from webapp.actions.prompts import PromptsRequest
from webapp.engine.errors import PareError
from webapp.store.models import Run
from webapp.web.extensions import db, services
from webapp.web.refusals import RefusedField, back_with

blueprint = Blueprint("prompts", __name__, url_prefix="/runs/<id>/prompts")

BOXES = 4  # to write into


@blueprint.app_template_global()
def answers_prompts(run: Run) -> bool:
    return prompts.why_no_prompts(run) is None


@blueprint.get("")
def show(id: str) -> str:
    return page(db.get_or_abort(Run, id))


@blueprint.post("")
def ask(id: str) -> ResponseReturnValue:
    run = db.get_or_abort(Run, id)
    texts = [text.replace("\r\n", "\n") for text in request.form.getlist("prompt") if text.strip()]
    try:
        asked = read(texts, request.form.get("max_tokens", ""), "chat" in request.form)
        prompts.ask_prompts(db.session, services().files, services().jobs, run, asked)
    except PareError as error:
        return back_with(error, partial(page, texts=texts), run, error.field or "prompts")
    return redirect(url_for("prompts.show", id=id))


@blueprint.post("/<name>/delete")
def delete(id: str, name: str) -> ResponseReturnValue:
    prompts.delete_prompts(db.session, db.get_or_abort(Run, id), name)
    flash("The prompts and their answers were deleted.")
    return redirect(url_for("prompts.show", id=id))


def read(texts: list[str], max_tokens: str, chat: bool) -> PromptsRequest:
    """Raises BodyInvalid."""
    if not texts:
        raise BodyInvalid("Write a prompt for both to go on from.", "prompts")
    try:
        asked = {"prompts": texts, "max_tokens": max_tokens or prompts.TOKENS, "chat": chat}
        return PromptsRequest.model_validate(asked)
    except ValidationError:
        raise BodyInvalid(
            f"At most {prompts.MOST_PROMPTS} prompts are asked at once, for 1 to {prompts.MOST_TOKENS} tokens each.",
            "max_tokens",
        ) from None


def page(run: Run, refused: RefusedField | None = None, texts: list[str] | None = None) -> str:
    return render_template(
        "prompts/show.html",
        run=run,
        refused=refused,
        why_not=prompts.why_no_prompts(run),
        asked=prompts.prompts_of(run),
        chats=prompts.has_chat_template(services().files, run.checkpoint),
        boxes=[*(texts or ()), *[""] * BOXES][:BOXES],
        limits=prompts,
    )
