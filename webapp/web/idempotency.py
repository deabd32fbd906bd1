"""A request that is sent twice with one Idempotency-Key is done once, and answered alike both times.

https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from werkzeug.exceptions import HTTPException

from webapp.actions.errors import Conflict, KeyReused, RequestInvalid
from webapp.engine.errors import PareError
from webapp.store.errors import StoreError
from webapp.store.models import KeptAnswer, now

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

KEPT = timedelta(days=1)
KEY_LENGTH = 255


def once(
    session: Session, key: str, request_bytes: bytes, secret: str, do: Callable[[], tuple[int, str]]
) -> tuple[int, str]:
    """What `do` answers (status, JSON), or answered when the key came first. What it refuses is not kept.

    Raises RequestInvalid, KeyReused where the key came with another request, and Conflict where the first one is not
    done yet, or its process died: then nobody knows whether it was.
    """
    from cryptography.fernet import Fernet  # 6 MB, for requests that are seldom

    if not (0 < len(key) <= KEY_LENGTH and key.isascii() and key.isprintable()):
        raise RequestInvalid(
            f"Idempotency-Key is 1 to {KEY_LENGTH} ASCII characters, such as a UUID.", "Idempotency-Key"
        )
    key_hash, request_hash = hashlib.sha256(key.encode()).hexdigest(), hashlib.sha256(request_bytes).hexdigest()
    # answers hold tokens, which nobody should find in the database
    sealing = Fernet(base64.urlsafe_b64encode(hmac.digest(secret.encode(), f"answer {key}".encode(), "sha256")))
    session.execute(delete(KeptAnswer).where(KeptAnswer.created_at < now() - KEPT))
    session.add(KeptAnswer(key_hash=key_hash, request_hash=request_hash))
    try:
        session.commit()
    except IntegrityError:
        session.rollback()
        return _kept(session.get(KeptAnswer, key_hash), request_hash, sealing)
    try:
        status, answer = do()
    except (PareError, StoreError, HTTPException):
        session.rollback()
        session.execute(delete(KeptAnswer).where(KeptAnswer.key_hash == key_hash))
        session.commit()
        raise
    row = session.get_one(KeptAnswer, key_hash)
    row.status, row.sealed = status, sealing.encrypt(answer.encode())
    session.commit()
    return status, answer


def _kept(row: KeptAnswer | None, request_hash: str, sealing: Fernet) -> tuple[int, str]:
    if row is not None and row.request_hash != request_hash:
        raise KeyReused(
            "This Idempotency-Key came with another request within the last day. Use a new key for each request.",
            "Idempotency-Key",
        )
    if row is None or row.status is None or row.sealed is None:
        raise Conflict(
            "The first request with this Idempotency-Key is not answered yet. Send it again in a moment; if that goes "
            "on, it was cut off: look whether it was done, and use a new key.",
            "Idempotency-Key",
        )
    return row.status, sealing.decrypt(row.sealed).decode()
