"""The table that operators enter themselves in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Run = Callable[..., Any]
OPERATORS: dict[str, Run] = {}


def operator(*names: str) -> Callable[[Run], Run]:
    """Enters a function under its names. A name comes once."""

    def entered(run: Run) -> Run:
        for name in names:
            assert name not in OPERATORS, f"{name} is there twice"
            OPERATORS[name] = run
        return run

    return entered
