"""What a command does, on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from webapp.jobs.child import CurvePoint


class ProgressBar:
    """One stage after the other."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()

    def stage(self, title: str) -> None:
        self._finish()
        if not self.quiet:
            self._bar = click.progressbar(length=1000, label=title[:40].ljust(40), file=click.get_text_stream("stderr"))
            self._bar.__enter__()

    def say(self, sentence: str) -> None:
        self._finish()
        if not self.quiet:
            click.echo(sentence, err=True)

    def tell(self, fraction: float | None, message: str, lines: list[str], points: Sequence[CurvePoint] = ()) -> None:
        if self._bar is not None and fraction is not None:
            self._bar.update(max(0, int(1000 * fraction) - self._bar.pos))

    def _finish(self) -> None:
        if self._bar is not None:
            self._bar.update(1000 - self._bar.pos)
            self._bar.__exit__(None, None, None)
            self._bar = None
