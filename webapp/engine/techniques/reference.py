"""What the techniques declare, as a page: `python -m webapp.engine.techniques.reference > docs/techniques.md`."""

from __future__ import annotations

import json
from typing import Any

from . import Technique, techniques

HEAD = """# Techniques

A step of a recipe names a technique and its settings; what is left out has its default. `layers` says which layers it
is for, by patterns of their names: at least one of `include` matches and none of `exclude`. `overrides` gives some of
them settings in place of the step's own: of the patterns that match a layer, the last one alone counts. A pattern that
matches no layer is an error, wherever it stands.

```yaml
version: 2
steps:
  - technique: gptq
    settings: {bits: 4, granularity: group, group_size: 64}
    layers: {include: ["*"], exclude: ["lm_head"]}
    overrides:
      "model.layers.0.*": {bits: 8}
      "*.down_proj": {bits: 5}
```

A program whose JSON does not keep the order of keys writes `overrides` as pairs: `[["*.down_proj", {"bits": 5}]]`.

This page is made by `make docs` from what the techniques declare."""


def as_markdown() -> str:
    """docs/techniques.md."""
    lines = [HEAD]
    for technique in techniques().values():
        lines += _section(technique)
    return "\n".join([*lines, ""])


def _section(technique: Technique) -> list[str]:
    needs = ", ".join(sorted(technique.needs)).replace("_if_any", " (if any)") or "nothing but the weights"
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
        "",
        f"Overrides can change {', '.join(f'`{name}`' for name in technique.Settings.per_layer()) or 'none of them'}.",
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
