"""Classes that declare themselves: found in the files of a folder, and in installed packages by entry point.

Whoever runs the installation adds some by installing a package; nothing that is uploaded can. An error in one stops the
program where it starts (`run.load_plugins`).
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import TypeVar

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Accepted:
    """What pages say of a kind of file: how such files end, what it is called, and a sentence on what it must hold."""

    suffixes: tuple[str, ...]
    title: str
    sentence: str


def one_of(accepted: Iterable[Accepted]) -> str:
    """ "GGUF (.gguf), ONNX (.onnx, .zip) or Text (.txt)", for the refusal of what is none of them."""
    *most, last = (f"{one.title} ({', '.join(one.suffixes)})" for one in accepted)
    return f"{', '.join(most)} or {last}"


def declared(package: ModuleType, base: type[Kind], key: str = "name") -> dict[str, type[Kind]]:
    """Every concrete subclass of `base` in the files of `package` and under the entry points of its group, by `key`.

    The group is `pare.` and the package's own name, such as `pare.techniques`. Raises RuntimeError where two have one
    name, and as `subclasses_in` and `entry_points_of` do.
    """
    noun = package.__name__.rpartition(".")[2]
    found: dict[str, type[Kind]] = {}
    for kind in (*subclasses_in(package, base, key), *entry_points_of(f"pare.{noun}", base)):
        name = getattr(kind, key)
        if name in found:
            raise RuntimeError(f"Two {noun} are called {name!r}: {found[name]} and {kind}.")
        found[name] = kind
    return found


def subclasses_in(package: ModuleType, base: type[Kind], key: str) -> list[type[Kind]]:
    """Every subclass of `base` that is defined in a module of `package`, in the order of the files.

    An abstract one without a `key` of its own is a base of others. Raises RuntimeError for one that lacks something.
    """
    found: list[type[Kind]] = []
    for entry in sorted(pkgutil.iter_modules(package.__path__), key=lambda entry: entry.name):
        module = importlib.import_module(f"{package.__name__}.{entry.name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            if not issubclass(member, base) or member.__module__ != module.__name__:
                continue
            if inspect.isabstract(member) and key not in vars(member):
                continue
            if lacks := lacking(member):
                raise RuntimeError(f"{module.__name__}.{member.__name__} lacks {lacks}.")
            found.append(member)
    return found


def lacking(kind: type) -> str:
    """What a class has to declare and does not, with commas: methods, and attributes without a default."""
    methods = getattr(kind, "__abstractmethods__", frozenset[str]())
    annotated = {name: str(what) for each in kind.__mro__ for name, what in inspect.get_annotations(each).items()}
    attributes = {name for name, what in annotated.items() if "ClassVar" in what and not hasattr(kind, name)}
    return ", ".join(sorted(methods | attributes))


def entry_points_of(group: str, base: type[Kind]) -> list[type[Kind]]:
    """The concrete subclasses of `base` that installed packages name under this group of entry points.

    Raises RuntimeError with the entry point's name where one cannot be imported or names something else.
    """
    found: list[type[Kind]] = []
    for entry in sorted(metadata.entry_points(group=group), key=lambda entry: (entry.name, entry.value)):
        where = f"The entry point {entry.name!r} of {group} ({entry.value}"
        where += f", of {entry.dist.name} {entry.dist.version})" if entry.dist else ")"
        try:
            named = entry.load()
        except (Exception, SystemExit) as error:  # whatever its package raises
            raise RuntimeError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
        if not (inspect.isclass(named) and issubclass(named, base)):
            raise RuntimeError(f"{where} names {named!r}, which is no subclass of {base.__name__}.")
        if lacks := lacking(named):
            raise RuntimeError(f"{where} names {named.__name__}, which lacks {lacks}.")
        found.append(named)
    return found
