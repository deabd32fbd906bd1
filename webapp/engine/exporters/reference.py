"""The tables of formats, as their classes declare them: `python -m … docs/formats.md` puts them there anew."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from webapp.engine.importers import importers

from . import exporters


def tables() -> dict[str, str]:
    """Markdown by the name under which a page has it: <!-- importers --> … <!-- /importers -->."""
    coming = [
        (
            kind.accepts.title,
            " ".join(f"`{suffix}`" for suffix in kind.accepts.suffixes),
            kind.accepts.sentence,
            "yes" if kind.graph else "",
            "on request" if kind.dequantizes else "",
        )
        for kind in importers().values()
    ]
    going = [
        (
            f"`{form.name}`",
            f"`{form.file}`",
            form.can.loads_in,
            form.can.integers,
            "kept" if form.can.factors else "refused",
            "save room" if form.can.zeros else "like other values",
            form.can.served_by or "",
        )
        for form in exporters().values()
    ]
    return {
        "importers": _table("format", "files", "what one holds", "has its graph", "dequantized", rows=coming),
        "exporters": _table("name", "file", "loads in", "integers", "factors", "zeros", "packages for", rows=going),
    }


def with_tables(page: str) -> str:
    """The page with the tables of today between their marks."""
    for name, table in tables().items():
        page = re.sub(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", rf"\1\n{table}\n\2", page, flags=re.DOTALL)
    return page


def _table(*titles: str, rows: Sequence[tuple[str, ...]]) -> str:
    lines = [titles, tuple("---" for _ in titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text(encoding="utf8")), encoding="utf8")
