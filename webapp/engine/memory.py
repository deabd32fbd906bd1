"""Freed memory goes back to the system: the allocator would keep what tensors of many sizes leave between them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Where the C library is glibc; elsewhere nothing. Takes milliseconds, so it is for the end of a piece of work."""
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
