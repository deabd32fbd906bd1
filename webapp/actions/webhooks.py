"""Webhooks: addresses elsewhere that are told when runs and studies end. What is written here a worker sends."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from webapp.config import InstallationSettings
from webapp.outgoing.addresses import networks_of, target_of
from webapp.outgoing.signing import webhook_secret
from webapp.store.clock import now
from webapp.store.database import locked, pass_alone
from webapp.store.events import TEST, event_body, run_facts
from webapp.store.models import Run, RunState, Webhook, WebhookDelivery

from .errors import Conflict, NotFound

MOST = 20  # webhooks
COUNTING = 0x77686F6F  # "whoo": the PostgreSQL advisory lock of whoever counts them to add one
OWN_ADDRESS = r"^https?://[^\s?#]+$"  # links are made by adding to it
SHOWN = 20  # deliveries, with what was sent
SWITCHED_OFF = "The webhook was switched off before this was sent."

EventName = Literal[
    "run.succeeded", "run.failed", "run.cancelled", "study.succeeded", "study.failed", "study.cancelled"
]
Events = Annotated[list[EventName], Field(min_length=1, max_length=6, description="What it is told of.")]


class WebhookRequest(BaseModel, extra="forbid"):
    url: str = Field(description="https:// or http://, of a public address, or of one in the setting webhook_networks.")
    events: Events = ["run.succeeded", "run.failed", "study.succeeded", "study.failed"]
    enabled: bool = True
    own_address: str | None = Field(
        None,
        max_length=500,
        pattern=OWN_ADDRESS,
        description="Pare's own, with which the links in its messages begin; else the one of this request.",
    )


class WebhookChanges(BaseModel, extra="forbid"):
    """What is not named stays."""

    url: str | None = None
    events: Events | None = None
    enabled: bool | None = None
    own_address: str | None = Field(None, max_length=500, pattern=OWN_ADDRESS)


def webhooks(session: Session) -> list[Webhook]:
    """Oldest first."""
    return list(session.scalars(select(Webhook).order_by(Webhook.created_at, Webhook.id)))


def create_webhook(session: Session, settings: InstallationSettings, asked: WebhookRequest, reached_at: str) -> Webhook:
    """`reached_at` is Pare's address as of this request. Raises AddressRefused; Conflict where there are too many."""
    target_of(asked.url, networks_of(settings.webhook_networks), "url")
    pass_alone(session, COUNTING)
    if (session.scalar(select(func.count(Webhook.id))) or 0) >= MOST:
        raise Conflict(f"There are {MOST} webhooks already. Delete one that is not needed.")
    row = Webhook(
        url=asked.url,
        events=list(dict.fromkeys(asked.events)),
        enabled=asked.enabled,
        own_address=(asked.own_address or reached_at).rstrip("/"),
    )
    session.add(row)
    session.commit()
    return row


def change_webhook(session: Session, settings: InstallationSettings, row: Webhook, asked: WebhookChanges) -> None:
    """Of one that is switched off, what waits is not sent any more. Raises AddressRefused, NotFound."""
    if asked.url not in (None, row.url) or (asked.enabled and not row.enabled):  # else one could not switch it off
        target_of(asked.url or row.url, networks_of(settings.webhook_networks), "url")
    found = _locked(session, row)
    found.url = found.url if asked.url is None else asked.url
    found.events = found.events if asked.events is None else list(dict.fromkeys(asked.events))
    found.enabled = found.enabled if asked.enabled is None else asked.enabled
    found.own_address = found.own_address if asked.own_address is None else asked.own_address.rstrip("/")
    if not found.enabled:
        waiting = (WebhookDelivery.webhook_id == found.id, WebhookDelivery.state == RunState.QUEUED)
        session.execute(update(WebhookDelivery).where(*waiting).values(state=RunState.FAILED, error=SWITCHED_OFF))
    session.commit()


def secret_of(settings: InstallationSettings, row: Webhook) -> str:
    return webhook_secret(settings.secret_key, row.id, row.secret_number)


def renew_secret(session: Session, settings: InstallationSettings, row: Webhook) -> str:
    """A new one; what is sent from now on is signed with it. Raises NotFound."""
    found = _locked(session, row)
    found.secret_number += 1
    session.commit()
    return secret_of(settings, found)


def delete_webhook(session: Session, row: Webhook) -> None:
    """With what was sent."""
    session.delete(row)
    session.commit()


def send_test(session: Session, row: Webhook) -> WebhookDelivery:
    """A message of the event "test", with the facts of the last run that succeeded. Raises Conflict, NotFound."""
    _require_enabled(_locked(session, row))
    newest = select(Run).where(Run.state == RunState.SUCCEEDED).order_by(Run.created_at.desc(), Run.id).limit(1)
    run = session.scalar(newest)
    facts = run_facts(run, row.own_address) if run is not None else None
    at = now()
    delivery = WebhookDelivery(
        webhook_id=row.id,
        event=TEST,
        subject=run.name if run is not None else "",
        body=event_body(TEST, facts, at),
        created_at=at,
    )
    session.add(delivery)
    session.commit()
    return delivery


def deliveries(session: Session, row: Webhook, most: int = SHOWN) -> list[WebhookDelivery]:
    """Newest first."""
    asked = select(WebhookDelivery).where(WebhookDelivery.webhook_id == row.id)
    latest = asked.order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id).limit(most)
    return list(session.scalars(latest))


def send_again(session: Session, row: Webhook, delivery_id: str) -> WebhookDelivery:
    """The same message, with the same id, at once and with all its tries. Raises NotFound, Conflict."""
    _require_enabled(row)
    found = session.get(WebhookDelivery, delivery_id[:12])
    delivery = locked(session, found) if found is not None and found.webhook_id == row.id else None
    if delivery is None:
        raise NotFound(f"There is no message {delivery_id[:40]!r} of this webhook. Those of last month are deleted.")
    delivery.state, delivery.tries, delivery.due_at = RunState.QUEUED, 0, now()
    session.commit()
    return delivery


def _require_enabled(row: Webhook) -> None:
    if not row.enabled:
        raise Conflict("This webhook is switched off; switch it on to have something sent.")


def _locked(session: Session, row: Webhook) -> Webhook:
    found = locked(session, row)
    if found is None:
        raise NotFound("This webhook was deleted a moment ago.")
    return found
