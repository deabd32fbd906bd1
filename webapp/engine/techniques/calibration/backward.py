"""Forward through a model and back again, block by block: only one block is in memory, in both directions.

The hidden states between the blocks lie in files, and so do the gradients of the part that was last gone back
through, so that a process that is killed goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from webapp.engine.architectures.build import release
from webapp.engine.data.batches import Batch, answers
from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.progress import Report
from webapp.engine.weights.memory import release_freed_memory
from webapp.engine.weights.model import Model

from .matrices import WeightMatrix
from .sequential_calibration import BlockCall, SequentialCalibration, run_block

GRADIENTS = "gradients.pt"


class Loss(Protocol):
    """What the gradients are of. `looks`: it has to see all answers, under no_grad, before it is asked for a loss."""

    looks: bool

    def look(self, found: Sequence[Tensor]) -> None: ...

    def of(self, index: int, found: Sequence[Tensor]) -> Tensor: ...


@dataclass(frozen=True)
class BackwardPart:
    """A part of the model with its weights in memory: `passes[i]` sends batch i forward through it and back.

    `module` holds the matrices' modules under their whole paths less `prefix`. `number` counts from the last part, 0,
    back to the first. In a block of the row `passes[i]` returns what went in and came out (B, ..., hidden), and the
    gradient there; elsewhere None.
    """

    number: int
    total: int
    name: str
    module: nn.Module
    prefix: str
    matrices: list[WeightMatrix]
    masks: Sequence[Tensor | None]
    passes: Sequence[Callable[[], tuple[Tensor, Tensor, Tensor] | None]]


def backward_parts(
    model: Model, layers: Sequence[LayerFacts], data: Sequence[Batch], loss: Loss, folder: Path, report: Report
) -> Iterator[BackwardPart]:
    """The model's parts from the last to the first, with the gradients of the loss.

    A part counts as done when the next is asked for; those done according to `folder` are passed over. A model without
    a row of blocks is one part.
    """
    yield from _Backward(model, layers, data, False).parts(loss, folder, report)


class _Arrived(Exception):
    """The first block has been given its inputs."""


class _States:
    """The inputs (B, ..., hidden) of every block for every batch, and what the last puts out: a file for each block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, block: int) -> Path:
        return self.folder / f"states-{block}.pt"

    def keep(self, block: int, hidden: Sequence[Tensor]) -> None:
        _save([x.contiguous() for x in hidden], self._path(block))

    def count(self) -> int:
        """How many blocks' inputs are there."""
        return next(block for block in count() if not self._path(block).exists())

    def of(self, block: int, batch: int) -> Tensor:
        found: Tensor = torch.load(self._path(block), mmap=True, weights_only=True)[batch]
        return found.clone()


def _save(content: Any, path: Path) -> None:
    unfinished = path.with_suffix(".unfinished")
    torch.save(content, unfinished)
    unfinished.replace(path)


class _Backward(SequentialCalibration):
    def parts(self, loss: Loss, folder: Path, report: Report) -> Iterator[BackwardPart]:
        if not self.row:
            self._fill(list(self.module.state_dict()))
            yield self._part(0, "", self.module, "", self.matrices, self._wholly(loss))
            return
        outside = [*self._outside(), *self._inside(self.row[0])]
        self._fill(outside)
        loose = [matrix for matrix in self.matrices if not any(matrix.path.startswith(prefix) for prefix in self.row)]
        before = self._before(loose)
        hidden, calls = self._record(self.data)
        release(self.module, outside)
        states = _States(folder)
        self._forward(states, hidden, calls, report)
        done, gradients = self._reached(folder)
        if done < 1:
            self._fill(self._outside())
            gradients = [torch.empty(0)] * len(self.data)
            after = [matrix for matrix in loose if matrix not in before]
            yield self._part(0, "after the blocks", self.module, "", after, self._tail(loss, states, gradients))
            release(self.module, self._outside())
            self._keep(folder, 1, gradients)
        for number, index in enumerate(reversed(range(len(self.row))), start=1):
            if number < done:
                continue
            prefix = self.row[index]
            self._fill(self._inside(prefix))
            part = self.module.get_submodule(prefix[:-1])
            matrices = [matrix for matrix in self.matrices if matrix.path.startswith(prefix)]
            passes = self._back_through(part, index, states, calls[index], gradients)
            yield self._part(number, prefix[:-1], part, prefix, matrices, passes)
            release(self.module, self._inside(prefix))
            self._keep(folder, number + 1, gradients)
            release_freed_memory()
        self._fill(outside)
        yield self._part(len(self.row) + 1, "before the blocks", self.module, "", before, self._head(gradients))

    def _part(
        self, number: int, name: str, module: nn.Module, prefix: str, matrices: list[WeightMatrix], passes: Any
    ) -> BackwardPart:
        total = len(self.row) + 2 if self.row else 1
        return BackwardPart(number, total, name, module, prefix, matrices, self.masks, passes)

    def _forward(
        self, states: _States, hidden: list[Tensor], calls: Sequence[Sequence[BlockCall]], report: Report
    ) -> None:
        """Fills the states that are not there yet."""
        there = states.count()
        if not there:
            states.keep(0, hidden)
            there = 1
        for index, prefix in enumerate(self.row):
            if index + 1 < there:
                continue
            report.progress((index + 1) / len(self.row), f"Forward through block {index + 1} of {len(self.row)}")
            self._fill(self._inside(prefix))
            part = self.module.get_submodule(prefix[:-1])
            with torch.no_grad():
                before = [states.of(index, batch) for batch in range(len(self.data))]
                states.keep(index + 1, [run_block(part, before, i, call)() for i, call in enumerate(calls[index])])
            release(self.module, self._inside(prefix))

    def _wholly(self, loss: Loss) -> list[Callable[[], None]]:
        def run(index: int) -> Callable[[], None]:
            return lambda: loss.of(index, answers(self.module, self.spec, self.data[index])).backward()  # type: ignore[no-untyped-call]

        if loss.looks:
            with torch.no_grad():
                for batch in self.data:
                    loss.look(answers(self.module, self.spec, batch))
        return [run(index) for index in range(len(self.data))]

    def _tail(self, loss: Loss, states: _States, gradients: list[Tensor]) -> list[Callable[[], None]]:
        """Fills `gradients` with those at the last block's output."""

        def answered(index: int, x: Tensor) -> list[Tensor]:
            with self._standing_in([lambda *_, **__: self._returned(x, index)] * len(self.row)):
                return answers(self.module, self.spec, self.data[index])

        def run(index: int) -> Callable[[], None]:
            def go() -> None:
                x = states.of(len(self.row), index).requires_grad_()
                loss.of(index, answered(index, x)).backward()  # type: ignore[no-untyped-call]
                gradients[index] = torch.zeros_like(x) if x.grad is None else x.grad

            return go

        if loss.looks:
            with torch.no_grad():
                for index in range(len(self.data)):
                    loss.look(answered(index, states.of(len(self.row), index)))
        return [run(index) for index in range(len(self.data))]

    def _back_through(
        self, part: nn.Module, index: int, states: _States, calls: Sequence[BlockCall], gradients: list[Tensor]
    ) -> list[Callable[[], tuple[Tensor, Tensor, Tensor]]]:
        """Takes `gradients` at the block's output to those at its input."""

        def run(batch: int) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
            def go() -> tuple[Tensor, Tensor, Tensor]:
                x, after = states.of(index, batch).requires_grad_(), gradients[batch]
                out = run_block(part, [x], 0, calls[batch])()
                out.backward(after)  # type: ignore[no-untyped-call]
                if x.grad is None:
                    raise RuntimeError(f"What {index} blocks put out does not require grad")
                gradients[batch] = x.grad
                return x.detach(), out.detach(), after

            return go

        return [run(batch) for batch in range(len(self.data))]

    def _head(self, gradients: list[Tensor]) -> list[Callable[[], None]]:
        """From the first block's input back to the model's."""

        def run(index: int) -> Callable[[], None]:
            def reached(*args: Any, **kwargs: Any) -> None:
                x = args[0] if args else kwargs["hidden_states"]
                if x.requires_grad:
                    x.backward(gradients[index])
                raise _Arrived

            def go() -> None:
                with self._standing_in([reached] * len(self.row)), suppress(_Arrived):
                    answers(self.module, self.spec, self.data[index])

            return go

        return [run(index) for index in range(len(self.data))]

    def _keep(self, folder: Path, done: int, gradients: list[Tensor]) -> None:
        """How many parts are done, and the gradients that the next begins from."""
        _save({"done": done, "gradients": gradients}, folder / GRADIENTS)

    def _reached(self, folder: Path) -> tuple[int, list[Tensor]]:
        path = folder / GRADIENTS
        if not path.exists():
            return 0, []
        found = torch.load(path, weights_only=True)
        return found["done"], found["gradients"]
