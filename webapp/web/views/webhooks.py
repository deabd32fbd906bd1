"""Webhooks: the list, and the page of one with what was sent to it."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import ValidationError

from webapp.actions import webhooks
from webapp.actions.errors import BodyInvalid
from webapp.actions.webhooks import WebhookChanges, WebhookRequest
from webapp.engine.errors import PareError
from webapp.store.events import EVENTS
from webapp.store.models import Webhook
from webapp.web.compression import unless_known
from webapp.web.extensions import db, row_of, services
from webapp.web.security import show_once, shown_once

blueprint = Blueprint("webhooks", __name__, url_prefix="/webhooks")

SECRET = "webhook"  # noqa: S105 - the kind that is shown once


@blueprint.get("")
def index() -> str:
    return listed()


@blueprint.post("")
def create() -> ResponseReturnValue:
    settings = services().settings
    try:
        asked = read_form(WebhookRequest)
        row = webhooks.create_webhook(db.session, settings, asked, request.root_url)
    except PareError as error:
        db.session.rollback()
        return listed(error), error.status
    show_once(SECRET, row.id, webhooks.secret_of(settings, row))
    return redirect(url_for(".show", id=row.id))


@blueprint.get("/<id>")
def show(id: str) -> ResponseReturnValue:
    row = row_of(Webhook, id)
    if "X-Refresh" not in request.headers:
        return shown(row)
    sent = [(each.id, each.state, each.tries, each.status, each.error) for each in webhooks.deliveries(db.session, row)]
    return unless_known(repr((sent, row.enabled)), lambda: shown(row))


@blueprint.post("/<id>")
def change(id: str) -> ResponseReturnValue:
    row = row_of(Webhook, id)
    try:
        webhooks.change_webhook(db.session, services().settings, row, read_form(WebhookChanges))
    except PareError as error:
        db.session.rollback()
        return shown(row_of(Webhook, id), error), error.status
    flash("The webhook was changed.")
    return redirect(url_for(".show", id=id))


@blueprint.post("/<id>/secret")
def renew(id: str) -> ResponseReturnValue:
    row = row_of(Webhook, id)
    show_once(SECRET, row.id, webhooks.renew_secret(db.session, services().settings, row))
    return redirect(url_for(".show", id=id))


@blueprint.post("/<id>/test")
def test(id: str) -> ResponseReturnValue:
    webhooks.send_test(db.session, row_of(Webhook, id))
    return redirect(url_for(".show", id=id, _anchor="deliveries"))


@blueprint.post("/<id>/deliveries/<delivery>/again")
def again(id: str, delivery: str) -> ResponseReturnValue:
    webhooks.send_again(db.session, row_of(Webhook, id), delivery)
    return redirect(url_for(".show", id=id, _anchor="deliveries"))


@blueprint.post("/<id>/delete")
def delete(id: str) -> ResponseReturnValue:
    webhooks.delete_webhook(db.session, row_of(Webhook, id))
    flash("The webhook was deleted; nothing is sent to it any more.")
    return redirect(url_for(".index"))


def listed(error: PareError | None = None) -> str:
    rows = [(row, next(iter(webhooks.deliveries(db.session, row, 1)), None)) for row in webhooks.webhooks(db.session)]
    default = WebhookRequest.model_fields["events"].default
    given = {"url": request.form.get("url", ""), "events": request.form.getlist("events") if error else default}
    given["own_address"] = request.form.get("own_address") or request.root_url.rstrip("/")
    return render_template("webhooks/index.html", rows=rows, events=EVENTS, given=given, error=error)


def shown(row: Webhook, error: PareError | None = None) -> str:
    given = {"url": row.url, "events": row.events, "own_address": row.own_address, "enabled": row.enabled}
    if error is not None:
        given |= {"url": request.form.get("url", ""), "events": request.form.getlist("events")}
        given |= {"own_address": request.form.get("own_address", ""), "enabled": "enabled" in request.form}
    return render_template(
        "webhooks/show.html",
        webhook=row,
        deliveries=webhooks.deliveries(db.session, row),
        secret=shown_once(SECRET, row.id),
        events=EVENTS,
        given=given,
        error=error,
    )


def read_form(kind: type[WebhookRequest] | type[WebhookChanges]) -> WebhookRequest | WebhookChanges:
    """Raises BodyInvalid."""
    form = request.form
    given = {"url": form.get("url", "").strip(), "events": form.getlist("events"), "enabled": "enabled" in form}
    try:
        return kind.model_validate(given | {"own_address": form.get("own_address", "").strip() or None})
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        raise BodyInvalid(WRONG.get(field, f"{field} is not right."), field) from None


WRONG = {
    "events": "Choose at least one event that the webhook is told of.",
    "own_address": "Pare's own address begins with https:// or http:// and has no spaces, ? or #.",
}
