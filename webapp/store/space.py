"""Free space: looked at before, and told in a sentence when it ran out all the same."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from webapp.store.errors import StoreFull

log = logging.getLogger(__name__)


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


@contextmanager
def as_store_full(place: Path | str) -> Iterator[None]:
    """Turns the system's "no space left" into StoreFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        log.error("The disk of %s is full", place)
        raise StoreFull("The disk is full: no space is left. Delete runs or make room, then try again.") from error


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
