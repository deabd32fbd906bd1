"""How work reports itself and learns that it should stop; the engine's only line to the outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Report(Protocol):
    """Receives progress. `fraction` is of the current stage, 0 to 1. Raise from it to stop the work.

    `point` is a point of a curve that is drawn while the work goes on: `values` at `x`, each under what it measures and
    its unit. A series grows from left to right; a point that is not beyond the last replaces what is there from it on.
    """

    def progress(self, fraction: float, message: str = "") -> None: ...

    def log(self, message: str) -> None: ...

    def point(self, series: str, x: float, values: dict[str, float]) -> None: ...


class Silent:
    """A report that nobody reads."""

    def progress(self, fraction: float, message: str = "") -> None: ...

    def log(self, message: str) -> None: ...

    def point(self, series: str, x: float, values: dict[str, float]) -> None: ...


class ProgressPart:
    """A report for a share of a stage: maps 0..1 into start..end of the outer one."""

    def __init__(self, outer: Report, start: float, end: float) -> None:
        self.outer, self.start, self.end = outer, start, end

    def progress(self, fraction: float, message: str = "") -> None:
        self.outer.progress(self.start + (self.end - self.start) * fraction, message)

    def log(self, message: str) -> None:
        self.outer.log(message)

    def point(self, series: str, x: float, values: dict[str, float]) -> None:
        self.outer.point(series, x, values)


def tracked(items: Sequence[Item], report: Report, message: str = "") -> Iterator[Item]:
    """Yields the items, reporting the share that is done before each and at the end."""
    for index, item in enumerate(items):
        report.progress(index / len(items), message.format(item=item, index=index + 1, total=len(items)))
        yield item
    report.progress(1.0)
