"""Memory: freed memory goes back to the system, and the errors of those that got none are known."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

from webapp.engine.errors import OUT_OF_MEMORY


def is_want_of_memory(error: BaseException) -> bool:
    """Of Python, NumPy and torch; also where another error came of one."""
    said = str(error).lower()
    told = isinstance(error, RuntimeError) and any(words in said for words in OUT_OF_MEMORY)
    wanting = isinstance(error, MemoryError) or told
    return wanting or (error.__cause__ is not None and is_want_of_memory(error.__cause__))


def release_freed_memory() -> None:
    """Where the C library is glibc; elsewhere nothing. Takes milliseconds, so it is for the end of a piece of work.

    The allocator would keep what tensors of many sizes leave between them.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
