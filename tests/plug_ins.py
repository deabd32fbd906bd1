"""Plug-ins for a test: a package as pip leaves it, or files beside those of a room; and the examples of the docs."""

import re
import sys
from pathlib import Path

import pytest

from webapp.engine import architectures, exporters, importers, techniques
from webapp.engine.run import stages

ROOMS = {room.__name__.rpartition(".")[2]: room for room in (architectures, exporters, importers, stages, techniques)}
DOCS = Path(__file__).parents[1] / "docs"


def documented(page: str) -> str:
    """The source of a page's examples, one after the other: those that begin with the name of their file."""
    blocks = re.findall(r"```python\n(# \S+\.py.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return "\n".join(blocks)


def _forget() -> None:
    for name, room in ROOMS.items():
        getattr(room, name).cache_clear()


class PlugIns:
    """Puts them where they are found, and takes them away again."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch

    def package(self, source: str, module: str, entry_points: dict[str, str]) -> None:
        """A package of one module, with entry points such as {"importers": "npz = npz_files:NpzImporter"}."""
        site = self.folder / "site"
        about = site / f"{module}-1.0.dist-info"
        about.mkdir(parents=True)
        (site / f"{module}.py").write_text(source)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
        groups = (f"[pare.{kind}]\n{line}\n" for kind, line in entry_points.items())
        (about / "entry_points.txt").write_text("".join(groups))
        self.monkeypatch.syspath_prepend(site)
        self._loads(module)

    def file(self, source: str, room: str, name: str) -> None:
        """A file of a room: "importers", "exporters", "techniques", "architectures" or "stages"."""
        package = ROOMS[room]
        there = self.folder / room
        there.mkdir()
        (there / f"{name}.py").write_text(source)
        self.monkeypatch.setattr(package, "__path__", [*package.__path__, str(there)])
        self._loads(f"{package.__name__}.{name}")

    def _loads(self, module: str) -> None:
        self.monkeypatch.delitem(sys.modules, module, raising=False)
        _forget()

    def taken_away(self) -> None:
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(str(self.folder)):
                del sys.modules[name]
        self.monkeypatch.undo()
        _forget()
