"""English prose to judge language models by: the paragraphs of Debian's debian-handbook, as tests and tables use them.

`apt-get install debian-handbook` brings the book. Paragraphs over 200 characters in the order of the sorted files; the
first 70 % are for calibration, the rest for evaluation.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

BOOK = Path("/usr/share/doc/debian-handbook/html/en-US")
SHORTEST = 200  # characters
SHARE = 0.7  # of the paragraphs calibrate


def paragraphs() -> Iterator[str]:
    for page in sorted(BOOK.glob("*.html"), key=str):
        yield from _paragraphs(page.read_text(encoding="utf8"))


def chapters() -> Iterator[tuple[str, str]]:
    """(the chapter's file name, a paragraph), each paragraph once."""
    seen = set()
    for path in sorted(BOOK.glob("*.html"), key=str):
        page = path.read_text(encoding="utf8")
        above = re.search(r'<link rel="up" href="(\w[^"]*)\.html"', page)
        chapter = above[1] if above and path.name.startswith("sect.") else path.stem
        for paragraph in _paragraphs(page):
            if paragraph not in seen:
                seen.add(paragraph)
                yield chapter, paragraph


def _paragraphs(page: str) -> Iterator[str]:
    text = re.sub(r"(?s)<(script|style|pre).*?</\1>", "", page)
    for part in re.findall(r'(?s)<(?:p|div class="para")[^>]*>(.*?)</(?:p|div)>', text):
        plain = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", part))).strip()
        if len(plain) > SHORTEST:
            yield plain


def first(tokens: int, length: Callable[[str], int]) -> str:
    """So much of the book that what trains holds these tokens and hardly more, once 30 % are split off to evaluate."""
    found, held = list(paragraphs()), 0
    for number, paragraph in enumerate(found, 1):
        held += length(f"{paragraph}\n\n")
        if held >= tokens:
            return "\n\n".join(found[: math.ceil(number / SHARE)])
    raise ValueError(f"The book holds {held} tokens, and not {tokens}")


def halves() -> tuple[str, str]:
    """(calibration, evaluation) as texts with an empty line between paragraphs."""
    found = list(paragraphs())
    cut = int(len(found) * SHARE)
    return "\n\n".join(found[:cut]), "\n\n".join(found[cut:])
