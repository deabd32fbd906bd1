"""Free space: looked at before, and told in a sentence when it ran out all the same."""

from __future__ import annotations

import errno
import logging
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from .errors import StoreFull

log = logging.getLogger(__name__)

UPLOADS = "uploads"  # below the working folder: those that come in parts
HUB = "hub"  # and models that come from a hub
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
POSTGRESQL_DISK_FULL = "53100"
FULL = "The disk is full: no space is left. Delete runs or make room, then try again."
NOTHING_LEFT_BYTES = 1_000_000  # with less, SQLite cannot open what it keeps beside its file and calls it an I/O error


def is_full(error: BaseException, folder: Path) -> bool:
    """Whether it says that no space is left: the system's error, or that of a database, whose files are in `folder`."""
    if isinstance(error, OSError):
        return error.errno in NO_SPACE
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.OperationalError):
        code = error.orig.sqlite_errorcode & 0xFF
        could = code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
        return code == sqlite3.SQLITE_FULL or (could and shutil.disk_usage(folder).free < NOTHING_LEFT_BYTES)
    return getattr(error.orig, "sqlstate", None) == POSTGRESQL_DISK_FULL


def shortage(free_bytes: int, min_free_bytes: int) -> str | None:
    """A sentence where less than that, or as good as nothing, is free."""
    if free_bytes >= max(min_free_bytes, NOTHING_LEFT_BYTES):
        return None
    return f"Only {_megabytes(free_bytes)} are free; {_megabytes(min_free_bytes)} must stay so (min_free_bytes)."


def require_free(folder: Path, size_bytes: int, min_free_bytes: int) -> None:
    """Raises StoreFull when `size_bytes` more would leave less than `min_free_bytes` free."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < size_bytes + min_free_bytes:
        log.error("The disk of %s is full", folder)  # where it is, is for the log: a client need not know
        raise StoreFull(
            f"The disk is full: {_megabytes(free_bytes)} are free, {_megabytes(size_bytes)} more are to be "
            f"stored and {_megabytes(min_free_bytes)} must stay free (min_free_bytes). "
            "Delete runs or make room, then try again."
        )


def remove_idle_folders(parent: Path, idle_seconds: float) -> None:
    """Removes those in it to which nothing was written for so long."""
    until = time.time() - idle_seconds
    for folder in parent.glob("*"):
        if max((path.stat().st_mtime for path in (folder, *folder.glob("*"))), default=0) <= until:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def as_store_full(place: Path | str) -> Iterator[None]:
    """Turns the system's "no space left" into StoreFull. Raises StoreFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        log.error("The disk of %s is full", place)
        raise StoreFull(FULL) from error


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
