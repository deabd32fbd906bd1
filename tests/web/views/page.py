"""An HTML page as a test looks at it."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """`.text`, and every element as (name, attributes)."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.hidden = 0  # inside a script: data, not text
        self.feed(html)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str, /, **attributes: str) -> list[dict[str, str]]:
        wanted = {key.strip("_").replace("_", "-"): value for key, value in attributes.items()}
        return [own for kind, own in self.elements if kind == tag and wanted.items() <= own.items()]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        self.hidden += tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag == "script"

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)
