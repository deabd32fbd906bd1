"""What becomes of a convolution's result: the normalisation that takes it over, and whether negatives are cut off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Follower:
    """`at` is the module whose output the result is: the convolution's own, or the normalisation right after it."""

    at: str
    norm: bool
    clipped: bool  # only a ReLU reads it


class _ReaderWatch(TorchFunctionMode):
    """Which functions read each tensor. It holds on to the tensors, so that no two have one identity."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Any] = []
        self.readers: dict[int, list[str]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        given = [*args, *kwargs.values()]
        tensors = [x for part in given for x in (part if isinstance(part, list | tuple) else [part])]
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                self.readers.setdefault(id(tensor), []).append(getattr(func, "__name__", ""))
        self.held += [*tensors, found]
        return found


def followers(module: nn.Module, paths: Sequence[str], run: Callable[[], Tensor]) -> dict[str, Follower]:
    """For each convolution at these paths of `module` that `run` reaches."""
    results: dict[str, Tensor] = {}
    norms: dict[int, tuple[str, Tensor]] = {}

    def keep(path: str) -> Any:
        return lambda _, __, output: results.__setitem__(path, output)

    def note(path: str) -> Any:
        return lambda _, given, output: norms.__setitem__(id(given[0]), (path, output))

    handles = [module.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    handles += [p.register_forward_hook(note(n)) for n, p in module.named_modules() if isinstance(p, NORMS)]
    try:
        with torch.no_grad(), _ReaderWatch() as watched:
            run()
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for path, result in results.items():
        at, last, norm = path, result, False
        if id(result) in norms and len(_readers(watched, result)) == 1:
            (at, last), norm = norms[id(result)], True
        found[path] = Follower(at, norm, _readers(watched, last) in (["relu"], ["relu_"]))
    return found


def _readers(watched: _ReaderWatch, tensor: Tensor) -> list[str]:
    """Those that read its values; looking at its shape does not count."""
    return [name for name in watched.readers.get(id(tensor), []) if name not in ("__get__", "dim", "size", "__len__")]
