"""What was worked out last is remembered, for a slider that moves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

REMEMBERED = 16  # limits

Kept = TypeVar("Kept")


class Latest(Generic[Kept]):
    """What was worked out last, by key, at most REMEMBERED of it. The web process asks from many threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._lock = Lock()

    def of(self, key: bytes, make: Callable[[], Kept]) -> Kept:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = make()
        with self._lock:
            self._kept[key] = found
            if len(self._kept) > REMEMBERED:
                self._kept.popitem(last=False)
        return found
