"""A program that was exported for one size of batch, made free of it: sizes that hold the batch become n times it.

Which of the numbers in a view are the batch is told by how many values arrive when twice the samples are sent through.
The caller compares the answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from webapp.engine.architectures.program.module import ProgramModule
from webapp.engine.lazy import Tensor, torch

RESHAPING = ("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default")
EXPANDING = ("aten.expand.default", "aten.repeat.default", "aten.broadcast_to.default")
MAKING = ("aten.zeros.default", "aten.ones.default", "aten.full.default")
MAKING_LIKE = ("aten.new_zeros.default", "aten.new_ones.default", "aten.new_full.default")
UNFLATTENING = "aten.unflatten.int"


def any_batch(program: Mapping[str, Any], module: ProgramModule, given: list[Tensor], size: int) -> dict[str, Any]:
    """The program with its batch free. `given` are inputs of a whole batch of `size`."""
    steps = [list(step) for step in program["steps"]]
    twice = [torch.cat((tensor, tensor)) for tensor in given]
    with torch.inference_mode():
        once = _recorded(module, given, None)
        freeing = _Freeing(steps, once, size)
        _recorded(module, twice, freeing)
    return {**program, "steps": steps}


def _recorded(module: ProgramModule, given: list[Tensor], freeing: _Freeing | None) -> list[list[Any]]:
    """The shapes of each step's tensor arguments in a run; with `freeing`, whose numbers are changed on the way."""
    shapes: list[list[Any]] = []

    def before(number: int, args: list[Any]) -> list[Any]:
        shapes.append([tuple(arg.shape) if isinstance(arg, Tensor) else None for arg in args])
        return args if freeing is None else freeing.changed(number, args)

    module.run(given, before)
    return shapes


class _Freeing:
    def __init__(self, steps: list[list[Any]], once: list[list[Any]], size: int) -> None:
        self.steps, self.once, self.size = steps, once, size

    def changed(self, number: int, args: list[Any]) -> list[Any]:
        """The arguments for twice the batch, and the step's own numbers made free."""
        name = self.steps[number][0]
        place = {UNFLATTENING: 2}.get(name, 0 if name in MAKING else 1)
        if name not in (*RESHAPING, *EXPANDING, *MAKING, *MAKING_LIKE, UNFLATTENING):
            return args
        sizes = list(args[place])
        index = self._index(name, number, args, sizes)
        if index is None:
            return args
        written = list(self.steps[number][2])
        written[place] = list(written[place])
        written[place][index] = f"batch:{sizes[index] // self.size}"
        self.steps[number][2] = written
        sizes[index] *= 2
        return [*args[:place], sizes, *args[place + 1 :]]

    def _index(self, name: str, number: int, args: list[Any], sizes: list[Any]) -> int | None:
        """Which of the sizes holds the batch; None where none does."""
        if name in MAKING or name in MAKING_LIKE:
            return sizes.index(self.size) if self.size in sizes else None
        now, then = tuple(args[0].shape), self.once[number][0]
        if name == UNFLATTENING:
            now, then = now[args[1] :][:1], then[args[1] :][:1]
        if name in RESHAPING or name == UNFLATTENING:
            axis = next((axis for axis, (a, b) in enumerate(zip(now, then, strict=True)) if a != b), None)
            return None if axis is None else self._of_view(then, axis, sizes)
        offset = len(sizes) - len(now)
        grown = [i + offset for i, (a, b) in enumerate(zip(now, then, strict=True)) if a != b]
        if name == "aten.repeat.default":
            return None if grown else (0 if sizes[0] == self.size and self.size > 1 else None)
        if grown:
            return grown[0] if sizes[grown[0]] != -1 else None
        return 0 if sizes and sizes[0] == self.size and (offset > 0 or now[0] == 1) and self.size > 1 else None

    def _of_view(self, shape: tuple[int, ...], axis: int, sizes: list[int]) -> int | None:
        """Where a view of `shape` as `sizes` has the batch that is in `axis`: values stay in their order."""
        known = prod(size for size in sizes if size != -1)
        whole = [prod(shape) // known if size == -1 else size for size in sizes]
        outer, inner = prod(shape[axis:]), prod(shape[axis + 1 :])
        same = [i for i, size in enumerate(sizes) if size == shape[axis] and prod(whole[i + 1 :]) == inner]
        if same:
            return axis if axis in same else same[0]
        first = max((i for i in range(len(whole)) if prod(whole[i:]) >= outer), default=0)
        span = [i for i in range(first, len(whole)) if i == first or prod(whole[i + 1 :]) >= inner]
        if any(sizes[i] == -1 for i in span):
            return None  # it follows by itself
        exact = [i for i in span if whole[i] == self.size]
        return next(iter([*exact, *(i for i in span if whole[i] % self.size == 0)]), None)
