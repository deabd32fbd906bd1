"""Bootstrap's icons, drawn into the page: read from the installed package, nothing is fetched for them."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from markupsafe import Markup

SYMBOL = re.compile(r'<symbol class="bi bi-[\w-]+" viewBox="([\d .]+)" id="([\w-]+)">(.*?)</symbol>', re.DOTALL)


@cache
def symbols() -> dict[str, tuple[str, str]]:
    """{name: (viewBox, shapes)}."""
    sprite = files("flask_bootstrap") / "static" / "bootstrap5" / "icons" / "bootstrap-icons.svg"
    return {name: (box, shapes.strip()) for box, name, shapes in SYMBOL.findall(sprite.read_text())}


def icon(name: str, classes: str = "") -> Markup:
    """An icon beside a text that says the same; hidden from screen readers. Raises KeyError for an unknown name."""
    box, shapes = symbols()[name]
    return Markup(  # noqa: S704 - nothing of it comes from a user
        f'<svg class="icon {classes}" viewBox="{box}" width="16" height="16" fill="currentColor" '
        f'aria-hidden="true" focusable="false">{shapes}</svg>'
    )
