"""Messages to webhooks are sent: by whichever worker looks first, one at a time for each, and again where that failed.

A message is a row that was written with the end that it tells of. A worker takes it by moving the time at which it is
due beyond what sending may take: if the worker dies, the message is due again then. So one may arrive twice, with the
same id, and none is lost before its last try.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, joinedload

from webapp.config import InstallationSettings
from webapp.outgoing.addresses import LOOKED_UP_SECONDS, AddressRefused, networks_of, target_of
from webapp.outgoing.posting import POST_SECONDS, PostFailed, post
from webapp.outgoing.signing import signed_headers, webhook_secret
from webapp.store.clock import now
from webapp.store.database import writing
from webapp.store.models import RunState, Webhook, WebhookDelivery

from .workplace import Workplace

log = logging.getLogger(__name__)

PAUSES = tuple(timedelta(seconds=each) for each in (10, 60, 300, 1800, 7200, 21600))  # after each try but the last
TAKEN = timedelta(seconds=2 * (LOOKED_UP_SECONDS + POST_SECONDS))  # after which its worker is thought to be dead
KEPT = timedelta(days=30)
EXCERPT = 200  # characters of an answer
WENT_WRONG = "Something went wrong inside Pare"
DIED = "The workers that sent it died before they were answered."


class Messenger:
    """Sends what is due. A receiver that is slow holds up its own messages and no others: each has its own thread."""

    def __init__(self, place: Workplace) -> None:
        self.place = place
        self._threads: dict[str, threading.Thread] = {}  # by the webhook that they send to

    def look(self) -> None:
        """Begins with what is due now, and waits for nobody."""
        self._threads = {webhook_id: thread for webhook_id, thread in self._threads.items() if thread.is_alive()}
        for webhook_id in _due(self.place):
            if webhook_id not in self._threads:
                thread = threading.Thread(target=self._send_all, args=[webhook_id], daemon=True)
                self._threads[webhook_id] = thread
                thread.start()

    def finish(self) -> None:
        """Waits until what was begun is done."""
        for thread in self._threads.values():
            thread.join()

    def _send_all(self, webhook_id: str) -> None:
        try:
            while _send_next(self.place, webhook_id):
                pass
        except OperationalError as error:
            log.warning("The messages of webhook %s could not be looked at: %s", webhook_id, error)
        except Exception:
            log.exception("Webhook %s could not be told; it is tried again", webhook_id)


def forget_old(place: Workplace) -> None:
    """Deletes messages that ended a month ago."""
    old = (WebhookDelivery.state != RunState.QUEUED, WebhookDelivery.created_at < now() - KEPT)
    with writing(place.sessions) as session:
        session.execute(delete(WebhookDelivery).where(*old))


def _due(place: Workplace) -> Sequence[str]:
    """The webhooks that have something to be sent."""
    with place.sessions() as session:
        return session.scalars(select(WebhookDelivery.webhook_id).where(*_is_due()).distinct()).all()


def _is_due() -> tuple[object, ...]:
    enabled = select(Webhook.id).where(Webhook.enabled)
    due = WebhookDelivery.due_at <= now()
    return WebhookDelivery.state == RunState.QUEUED, due, WebhookDelivery.webhook_id.in_(enabled)


def _send_next(place: Workplace, webhook_id: str) -> bool:
    """Whether there was something to send, or to give up."""
    with writing(place.sessions) as session:
        taken = _take(session, webhook_id)
    if taken is None:
        return False
    if taken.state is RunState.FAILED:
        return True
    try:
        status, error = _sent(place.settings, taken)
    except Exception as failure:
        log.exception("Message %s could not be sent for a reason that nobody foresaw", taken.id)
        status, error = None, f"{WENT_WRONG} ({type(failure).__name__}). The worker's log has the details."
    with writing(place.sessions) as session:
        row = session.get(WebhookDelivery, taken.id, with_for_update=True)
        if row is None or row.tries != taken.tries or row.state is not RunState.QUEUED:
            return True  # deleted, or taken by another meanwhile
        row.status, row.error = status, error
        if error is None:
            row.state = RunState.SUCCEEDED
        elif row.tries > len(PAUSES):
            row.state = RunState.FAILED
        else:
            row.due_at = now() + PAUSES[row.tries - 1]
    log.info("Webhook %s, message %s: %s", webhook_id, taken.id, error or status)
    return True


def _take(session: Session, webhook_id: str) -> WebhookDelivery | None:
    """The oldest that is due, no longer due for others; given up where workers died at all of its tries."""
    row = session.scalar(
        select(WebhookDelivery)
        .options(joinedload(WebhookDelivery.webhook))
        .where(*_is_due(), WebhookDelivery.webhook_id == webhook_id)
        .order_by(WebhookDelivery.due_at, WebhookDelivery.created_at)
        .limit(1)
        .with_for_update(skip_locked=True, of=WebhookDelivery)
    )
    if row is None:
        return None
    if row.tries > len(PAUSES):
        row.state, row.error = RunState.FAILED, row.error or DIED
        return row
    row.tries, row.tried_at, row.due_at = row.tries + 1, now(), now() + TAKEN
    return row


def _sent(settings: InstallationSettings, row: WebhookDelivery) -> tuple[int | None, str | None]:
    """What was answered, and what is wrong with it. The address is looked up anew: it may have become a private one."""
    secret = webhook_secret(settings.secret_key, row.webhook.id, row.webhook.secret_number)
    body = row.body.encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Pare",
        **signed_headers(secret, row.id, int(now().timestamp()), body),
    }
    try:
        target = target_of(row.webhook.url, networks_of(settings.webhook_networks))
        status, text = post(target, headers, body)
    except (AddressRefused, PostFailed) as error:
        return None, str(error)[:1000]
    if 200 <= status < 300:
        return status, None
    if 300 <= status < 400:
        return (
            status,
            f"{target.host} answered with a redirect ({status}), which is not followed. Enter where it leads.",
        )
    excerpt = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:EXCERPT]
    return status, f"{target.host} answered with an error ({status}){f': {excerpt}' if excerpt else '.'}"
