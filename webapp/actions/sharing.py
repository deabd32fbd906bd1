"""Share links: revocable, read-only addresses of one run, of one comparison or of one study.

A link's token is its id and a code that only the secret key makes: whoever reads the database alone cannot open one.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.store.clock import now
from webapp.store.models import Run, Share

from .errors import NotFound

ID_LENGTH, CODE_BYTES = 12, 18


def share_runs(session: Session, run_ids: Sequence[str], view: dict[str, Any] | None = None) -> Share:
    """A new link. One run shows its result and receipt; with a `view` (a comparison's query), the comparison."""
    share = Share(run_ids=list(run_ids), view=view or {})
    session.add(share)
    session.commit()
    return share


def share_study(session: Session, study_id: str) -> Share:
    """A new link, which shows the study as it then is."""
    return share_runs(session, [], {"study": study_id})


def token_of(id: str, secret_key: str) -> str:
    code = hmac.digest(secret_key.encode(), f"share {id}".encode(), "sha256")[:CODE_BYTES]
    return id + base64.urlsafe_b64encode(code).decode()


def open_share(session: Session, token: str, secret_key: str) -> Share:
    """Raises NotFound, in the same words for an unknown link and for a revoked one."""
    id = token[:ID_LENGTH]
    known = hmac.compare_digest(token_of(id, secret_key).encode("utf8", "replace"), token.encode("utf8", "replace"))
    share = session.get(Share, id) if known else None
    if share is None or share.revoked_at is not None:
        raise NotFound("This link does not work. It may have been revoked; ask the person who sent it to you.")
    return share


def revoke(session: Session, share: Share) -> None:
    share.revoked_at = now()
    session.commit()


def shares_of(session: Session, run_ids: Sequence[str], comparison: bool = False) -> list[Share]:
    """The links in force to exactly these runs, newest first; of comparisons only or of single runs only."""
    links = session.scalars(select(Share).where(Share.revoked_at.is_(None)).order_by(Share.created_at.desc()))
    wanted = [link for link in links if "study" not in link.view and bool(link.view) == comparison]
    return [link for link in wanted if set(link.run_ids) == set(run_ids)]


def shares_of_study(session: Session, study_id: str) -> list[Share]:
    """The links in force to it, newest first."""
    links = session.scalars(select(Share).where(Share.revoked_at.is_(None)).order_by(Share.created_at.desc()))
    return [link for link in links if link.view.get("study") == study_id]


def shared_runs(session: Session, share: Share) -> list[Run]:
    """In the order of the link."""
    found = {run.id: run for run in session.scalars(select(Run).where(Run.id.in_(share.run_ids)))}
    return [found[id_] for id_ in share.run_ids if id_ in found]
