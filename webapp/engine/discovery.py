"""Files in a folder that declare themselves: a class found in any of them is part of the house. An error is loud."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import TypeVar

Kind = TypeVar("Kind")


def subclasses_in(package: ModuleType, base: type[Kind]) -> list[type[Kind]]:
    """Every concrete subclass of `base` that is defined in a module of `package`, in the order of the files."""
    found: list[type[Kind]] = []
    for entry in sorted(pkgutil.iter_modules(package.__path__), key=lambda entry: entry.name):
        module = importlib.import_module(f"{package.__name__}.{entry.name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            if issubclass(member, base) and member.__module__ == module.__name__ and not inspect.isabstract(member):
                found.append(member)
    return found
