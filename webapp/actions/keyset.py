"""Pages of a list, each of which begins after a row of the one before (keyset): the last costs what the first one does.

An order is by some columns and then by id. A cursor is the id and these columns' values of a row, for an address.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Double, Float, Select, String, and_, literal, or_, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from webapp.store.models import UtcDateTime

from .errors import RequestInvalid

CURSOR_MOST = 1200
END = "end"  # as `until`: the last page


@dataclass(frozen=True)
class Order:
    """By `keys`, then by `id`, all of them one way. What has no value comes last, either way."""

    id: InstrumentedAttribute[str]
    keys: tuple[ColumnElement[Any], ...]
    descending: bool
    nullable: bool
    table: Any = None  # to be joined, where it matches `on`
    on: ColumnElement[bool] | None = None

    def of(self, asked: Select[Any]) -> Select[Any]:
        return asked.outerjoin(self.table, self.on) if self.table is not None else asked

    def by(self, backwards: bool) -> list[ColumnElement[Any]]:
        down = self.descending != backwards
        known = [self.keys[0].is_(None)] if self.nullable else []
        return [
            *(each.desc() if backwards else each.asc() for each in known),
            *(each.desc() if down else each.asc() for each in (*self.keys, self.id)),
        ]

    def beyond(self, cursor: list[Any], backwards: bool) -> ColumnElement[bool]:
        """What comes after the cursor, or before it. `cursor` is the id and a value of each key."""
        id_, values = cursor[0], cursor[1:]
        down = self.descending != backwards
        unknown = self.keys[0].is_(None)
        if values[0] is None:
            others = and_(unknown, self.id < id_ if down else self.id > id_)
            return or_(others, self.keys[0].is_not(None)) if backwards else others
        here = tuple_(*self.keys, self.id)
        there = tuple_(
            *(literal(value, key.type) for value, key in zip(values, self.keys, strict=True)), literal(id_, String())
        )
        further = here < there if down else here > there
        return or_(further, unknown) if self.nullable and not backwards else further


@dataclass(frozen=True)
class KeysetPage:
    """`next` and `previous` are cursors, "" where there is nothing further."""

    ids: list[str]
    next: str
    previous: str


def keyset_page(
    session: Session, order: Order, wanted: Sequence[ColumnElement[bool]], after: str, until: str, limit: int
) -> KeysetPage:
    """The ids of what is `wanted`, after a cursor or before another. Raises RequestInvalid for none of this order's."""
    backwards = bool(until)
    cursor = until if backwards else after
    bounds = [] if cursor in ("", END) else [order.beyond(_decoded(cursor, order), backwards)]
    asked = order.of(select(order.id, *order.keys)).where(*wanted, *bounds).order_by(*order.by(backwards))
    found = session.execute(asked.limit(limit + 1)).all()
    more, found = len(found) > limit, found[:limit]
    if backwards:
        found = found[::-1]
    before, further = (more, until != END) if backwards else (bool(after), more)
    return KeysetPage(
        ids=[row[0] for row in found],
        next=_encoded(found[-1]) if found and further else "",
        previous=_encoded(found[0]) if found and before else "",
    )


def _encoded(row: Sequence[Any]) -> str:
    """Where a row is in its order, for an address."""
    told = [value.isoformat() if isinstance(value, datetime) else value for value in row]
    return base64.urlsafe_b64encode(json.dumps(told, separators=(",", ":")).encode()).decode().rstrip("=")


def _decoded(cursor: str, order: Order) -> list[Any]:
    """Raises RequestInvalid."""
    wrong = RequestInvalid("The place in the list cannot be read. Begin at its top again, without `from` and `to`.")
    try:
        if len(cursor) > CURSOR_MOST:
            raise wrong
        values = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
        id_, *keys = values
        if len(keys) != len(order.keys) or not isinstance(id_, str) or "\0" in id_:
            raise wrong
        id_.encode()
        return [id_, *(_typed(value, key) for value, key in zip(keys, order.keys, strict=True))]
    except (ValueError, TypeError, RecursionError, OverflowError):
        raise wrong from None


def _typed(value: Any, key: ColumnElement[Any]) -> Any:
    """Raises ValueError, TypeError or OverflowError where this is no value of the key."""
    if value is None:
        return None
    if isinstance(key.type, UtcDateTime):
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        return moment.astimezone(UTC)
    if isinstance(key.type, Double | Float):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(float(value)):
            raise ValueError("no number")
        return float(value)
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("no text")
    value.encode()
    return value
