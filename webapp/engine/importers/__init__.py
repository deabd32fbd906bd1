"""The formats in which a checkpoint can be uploaded: one file or folder each, found by being there.

A format is told by its bytes, never by its name. Installed packages add others: docs/adding-a-format.md.
"""

from __future__ import annotations

import sys
from functools import cache

from webapp.engine.plugins import declared

from .base import Importer, Opened


@cache
def importers() -> dict[str, type[Importer]]:
    """Every format by its name, in the order in which they are asked whether an upload is theirs."""
    found = declared(sys.modules[__name__], Importer)  # type: ignore[type-abstract]
    return dict(sorted(found.items(), key=lambda named: (named[1].priority, named[0])))
