"""What goes back to a client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .errors import Refused

JSON = "application/json"


@dataclass
class Answer:
    """`body` is whole, or comes in pieces (server-sent events)."""

    body: bytes | Iterator[bytes]
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": JSON})
    status: int = 200


@dataclass(frozen=True)
class Request:
    """Of a client: `path` without the query, headers by their names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """Raises Refused unless the body is a JSON object."""
        return object_of(self.body)


def object_of(body: bytes) -> dict[str, Any]:
    """Raises Refused."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("The body is not JSON that can be read.") from None
    if not isinstance(found, dict):
        raise Refused("The body has to be a JSON object, { … }.")
    return found


def as_json(value: Any) -> Answer:
    return Answer(json.dumps(value).encode())
