"""Notes are anybody's text: what becomes of them may hold no script, no frame and no address that runs one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.web.views.page import Page
from webapp.web.markdown import markdown

HARMLESS = {"p", "strong", "em", "s", "a", "ul", "ol", "li", "pre", "code", "blockquote", "hr", "br"}
HARMLESS |= {"table", "thead", "tbody", "tr", "th", "td"}


def test_it_is_markdown():
    page = Page(markdown("# Title\n\n**bold** and [a link](https://example.org)\n\n| a | b |\n| - | - |\n| 1 | 2 |"))
    assert page.of("a", href="https://example.org")[0]["rel"] == "nofollow noreferrer noopener"
    assert {"strong", "table"} <= {tag for tag, _ in page.elements}
    assert "Title" in page.text


@pytest.mark.parametrize(
    "attempt",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt&#58;alert(1))",
        "[x](data:text/html,<script>alert(1)</script>)",
        "![x](https://elsewhere.example/seen.png)",
        '[x](https://a.b "onmouseover=alert(1)")',
        '<a href="javascript:alert(1)">x</a>',
        "<javascript:alert(1)>",
        "[x]: javascript:alert(1)\n\n[x]",
    ],
)
def test_what_would_run_is_text(attempt):
    require_harmless(markdown(attempt))


@given(st.text("<>[]()!`*#|-\"'&;:/\\ \njavscript", max_size=80))
def test_nothing_runs_whatever_is_written(text):
    require_harmless(markdown(text))


def require_harmless(html):
    for tag, own in Page(html).elements:
        assert tag in HARMLESS
        assert set(own) <= {"href", "rel", "title", "class", "start", "style"}
        assert own.get("style", "text-align:left") in ("text-align:left", "text-align:right", "text-align:center")
        assert own.get("href", "/").lower().startswith(("http://", "https://", "mailto:", "/", "#"))
