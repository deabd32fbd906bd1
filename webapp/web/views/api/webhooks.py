"""Webhooks: addresses elsewhere that are told when runs and studies end."""

from __future__ import annotations

from flask import request

from webapp.actions import webhooks
from webapp.actions.webhooks import WebhookChanges, WebhookRequest
from webapp.store.models import Webhook
from webapp.web.extensions import db, row_of, services

from . import schemas
from .endpoints import endpoint


@endpoint(
    "POST",
    "/webhooks",
    "Have an address told when runs and studies end",
    status=201,
    errors=(409,),
    example="""--json '{"url": "https://example.com/pare", "events": ["run.succeeded", "run.failed"]}'""",
)
def create_webhook(body: WebhookRequest) -> schemas.NewWebhookAnswer:
    row = webhooks.create_webhook(db.session, services().settings, body, request.root_url)
    return with_secret(row, webhooks.secret_of(services().settings, row))


@endpoint("GET", "/webhooks", "Webhooks, oldest first")
def get_webhooks() -> schemas.Items[schemas.WebhookAnswer]:
    rows = [schemas.WebhookAnswer.model_validate(row) for row in webhooks.webhooks(db.session)]
    return schemas.Items[schemas.WebhookAnswer](items=rows)


@endpoint("GET", "/webhooks/<id>", "A webhook")
def get_webhook(id: str) -> schemas.WebhookAnswer:
    return schemas.WebhookAnswer.model_validate(row_of(Webhook, id))


@endpoint("PATCH", "/webhooks/<id>", "Change a webhook, or switch it off", example="""--json '{"enabled": false}'""")
def change_webhook(id: str, body: WebhookChanges) -> schemas.WebhookAnswer:
    row = row_of(Webhook, id)
    webhooks.change_webhook(db.session, services().settings, row, body)
    return schemas.WebhookAnswer.model_validate(row)


@endpoint("DELETE", "/webhooks/<id>", "Delete a webhook, with what was sent to it", status=204)
def delete_webhook(id: str) -> None:
    webhooks.delete_webhook(db.session, row_of(Webhook, id))


@endpoint("POST", "/webhooks/<id>/secret", "Make a new secret; the one before signs nothing any more", status=201)
def renew_webhook_secret(id: str) -> schemas.NewWebhookAnswer:
    row = row_of(Webhook, id)
    return with_secret(row, webhooks.renew_secret(db.session, services().settings, row))


@endpoint("POST", "/webhooks/<id>/test", "Send it a test", status=202, errors=(409,))
def test_webhook(id: str) -> schemas.DeliveryAnswer:
    return schemas.DeliveryAnswer.model_validate(webhooks.send_test(db.session, row_of(Webhook, id)))


@endpoint("GET", "/webhooks/<id>/deliveries", "The last messages to a webhook, newest first")
def get_deliveries(id: str) -> schemas.Items[schemas.DeliveryAnswer]:
    rows = webhooks.deliveries(db.session, row_of(Webhook, id))
    return schemas.Items[schemas.DeliveryAnswer](items=[schemas.DeliveryAnswer.model_validate(row) for row in rows])


@endpoint(
    "POST", "/webhooks/<id>/deliveries/<delivery>/again", "Send a message again, with its id", status=202, errors=(409,)
)
def send_delivery_again(id: str, delivery: str) -> schemas.DeliveryAnswer:
    return schemas.DeliveryAnswer.model_validate(webhooks.send_again(db.session, row_of(Webhook, id), delivery))


def with_secret(row: Webhook, secret: str) -> schemas.NewWebhookAnswer:
    told = schemas.WebhookAnswer.model_validate(row).model_dump(exclude={"page"})
    return schemas.NewWebhookAnswer.model_validate({**told, "secret": secret})
