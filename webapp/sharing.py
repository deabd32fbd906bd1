"""Share links: random, revocable, read-only addresses of one run or of one comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from .request_errors import NotFound
from .store.models import Run, Share, now

TOKEN_LENGTH = 64  # characters at most; the column's width


def share_runs(session: Session, run_ids: Sequence[str], view: dict[str, Any] | None = None) -> Share:
    """A new link. One run shows its result and receipt; with a `view` (a comparison's query), the comparison."""
    share = Share(run_ids=list(run_ids), view=view or {})
    session.add(share)
    session.commit()
    return share


def open_share(session: Session, token: str) -> Share:
    """Raises NotFound, in the same words for an unknown link and for a revoked one."""
    share = session.get(Share, token) if len(token) <= TOKEN_LENGTH and token.isprintable() else None
    if share is None or share.revoked_at is not None:
        raise NotFound("This link does not work. It may have been revoked; ask the person who sent it to you.")
    return share


def revoke(session: Session, share: Share) -> None:
    share.revoked_at = now()
    session.commit()


def shares_of(session: Session, run_ids: Sequence[str], comparison: bool = False) -> list[Share]:
    """The links in force to exactly these runs, newest first; of comparisons only or of single runs only."""
    links = session.scalars(select(Share).where(Share.revoked_at.is_(None)).order_by(Share.created_at.desc()))
    return [link for link in links if bool(link.view) == comparison and set(link.run_ids) == set(run_ids)]


def shared_runs(session: Session, share: Share) -> list[Run]:
    """In the order of the link."""
    found = {run.id: run for run in session.scalars(select(Run).where(Run.id.in_(share.run_ids)))}
    return [found[id_] for id_ in share.run_ids if id_ in found]
