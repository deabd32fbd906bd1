"""What the techniques declare, as a page: `python -m webapp.engine.techniques.reference > docs/techniques.md`."""

from __future__ import annotations

import json
from typing import Any

from . import Technique, techniques


def as_markdown() -> str:
    """docs/techniques.md."""
    lines = [
        "# Techniques",
        "",
        "A step of a recipe names a technique and its settings; what is left out has its default.",
        "This page is made by `make docs` from what the techniques declare.",
    ]
    for technique in techniques().values():
        lines += _section(technique)
    return "\n".join([*lines, ""])


def _section(technique: Technique) -> list[str]:
    needs = ", ".join(sorted(technique.needs)) or "nothing but the weights"
    return [
        "",
        f"## {technique.title}",
        "",
        f"`{technique.name}`, version {technique.version}. {technique.summary} [Paper]({technique.paper}).",
        f"Works on {', '.join(sorted(technique.layers))}; needs {needs}.",
        "",
        "| setting | default | values | what it does |",
        "| --- | --- | --- | --- |",
        *(_row(name, field) for name, field in technique.Settings.model_json_schema()["properties"].items()),
    ]


def _row(name: str, field: dict[str, Any]) -> str:
    unit = f" {field['unit']}" if field.get("unit") else ""
    only = "".join(f" Only where `{key}` is `{value}`." for key, value in field.get("show_when", {}).items())
    what = f"{field['title']}: {field.get('description', '')}{only}"
    return f"| `{name}` | `{json.dumps(field['default'])}`{unit} | {_values(field)} | {what} |"


def _values(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "boolean":
        return "`true`, `false`"
    bounds = (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    )
    return ", ".join(f"{words} {field[key]}" for key, words in bounds if key in field) or str(field.get("type", ""))


if __name__ == "__main__":
    print(as_markdown(), end="")
