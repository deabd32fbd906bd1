"""A result's README on a hub: what it is, what was measured, how it was made; the receipt at its end.

https://huggingface.co/docs/hub/model-cards. The front matter names the model that it was made from, where it is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from .receipt_text import render_text

FENCE = "`" * 4  # longer than any in what it holds


def model_card(
    receipt: Mapping[str, Any], recipe_yaml: str, files: Sequence[str], base_model: str | None, in_transformers: bool
) -> str:
    """Markdown. `files` are what is beside it; `in_transformers`: `from_pretrained` loads the repository as it is."""
    about: dict[str, Any] = {"tags": ["pare", "compressed"]}
    if base_model:
        about |= {"base_model": base_model, "base_model_relation": "quantized"}
    if in_transformers:
        about |= {"library_name": "transformers"}
    return "\n".join(
        [
            "---",
            yaml.safe_dump(about, sort_keys=False).strip(),
            "---",
            "",
            *_lines(receipt, recipe_yaml, files, base_model, in_transformers),
            "",
        ]
    )


def _lines(
    receipt: Mapping[str, Any], recipe_yaml: str, files: Sequence[str], base_model: str | None, in_transformers: bool
) -> Iterator[str]:
    yield f"# {_plain(receipt['title'] or 'A compressed model')}"
    yield ""
    yield _plain(receipt["verdict"]["sentence"])
    if base_model:
        yield f"\nMade from `{base_model}`."
    yield "\nCompressed by Pare, which loaded each file again in a clean process and compared its answers."
    yield "\n## Files\n"
    for name in files:
        yield f"- `{name}`"
    if in_transformers:
        yield "\n`AutoModel.from_pretrained` and its kin load this repository; Pare's own file is in `pare/`."
    else:
        yield "\n`model.safetensors` is Pare's own file: `from webapp.engine import load; module = load(path)`."
    yield f"\n## Recipe\n\n{FENCE}yaml\n{recipe_yaml.strip()}\n{FENCE}"
    yield f"\n## Receipt\n\n{FENCE}text\n{render_text(receipt).strip()}\n{FENCE}"


def _plain(text: str) -> str:
    """On one line, and nothing in it is Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(text.split()))
