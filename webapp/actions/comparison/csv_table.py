"""A comparison's table for spreadsheets."""

from __future__ import annotations

import csv
import io
from typing import Any

from .table import Comparison
from .view import COLUMNS


def as_csv(comparison: Comparison) -> str:
    """UTF-8 with a heading row; numbers unrounded; text that a spreadsheet would take for a formula is quoted."""
    out = io.StringIO()
    writer = csv.writer(out)
    keys = ["id", *COLUMNS]
    writer.writerow([f"metric:{comparison.metric}" if key == "metric" and comparison.metric else key for key in keys])
    for each in comparison.rows:
        writer.writerow([inert(each[key]) for key in keys])
    return out.getvalue()


def inert(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return "" if value is None else value
