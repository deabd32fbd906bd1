"""Rows of blocks: the lists of alike modules that a transformer, or a network of stages, runs one after the other."""

from __future__ import annotations

from webapp.engine.lazy import nn

SHORTEST_ROW = 2


def row_of_blocks(module: nn.Module) -> str | None:
    """The path of the longest nn.ModuleList of alike modules that hold linear layers; None where there is none."""
    return next(iter(rows_of_blocks(module)), None)


def rows_of_blocks(module: nn.Module) -> list[str]:
    """The paths of all such lists, the longest first."""
    found: list[tuple[int, str]] = []
    for name, part in module.named_modules():
        alike = isinstance(part, nn.ModuleList) and len(part) >= SHORTEST_ROW and len({type(b) for b in part}) == 1
        if alike and any(getattr(inner, "weight", None) is not None for inner in part.modules()):
            found.append((len(list(part.children())), name))
    return [name for _, name in sorted(found, key=lambda item: -item[0])]
