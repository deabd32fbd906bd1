"""Markdown that people wrote, as HTML that can do no harm."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

SCHEMES = ("http://", "https://", "mailto:", "/", "#")  # that a link may begin with


@lru_cache(16)  # ten thousand brackets take half a second
def markdown(text: str) -> Markup:
    """HTML in it is shown as it stands, an image becomes a link, and a heading a bold line."""
    return Markup(_parser().render(text))  # noqa: S704 - the parser escapes all that is not its own


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt  # 2 MB, where nobody may ever write a note

    parser = MarkdownIt("js-default", {"html": False, "linkify": False, "typographer": False})
    parser.disable(["image", "html_block", "html_inline"])
    parser.validateLink = lambda url: url.lower().startswith(SCHEMES)  # type: ignore[method-assign]
    for rule, html in (("heading_open", "<p><strong>"), ("heading_close", "</strong></p>\n")):
        parser.add_render_rule(rule, _always(html))
    parser.add_render_rule("link_open", _link)
    return parser


def _always(html: str) -> Any:
    return lambda renderer, tokens, index, options, env: html


def _link(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> Any:
    tokens[index].attrSet("rel", "nofollow noreferrer noopener")
    return renderer.renderToken(tokens, index, options, env)
