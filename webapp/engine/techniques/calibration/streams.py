"""Several versions of a model run side by side, block by block: of each block one set of weights is in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from webapp.engine.architectures.build import release
from webapp.engine.data.batches import Batch, answers
from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor, torch
from webapp.engine.progress import Report
from webapp.engine.weights.memory import release_freed_memory
from webapp.engine.weights.model import Model

from .sequential_calibration import BlockCall, SequentialCalibration, run_block

Errors = Callable[[str, Tensor], Tensor | None]  # (tensor's name, its values): what may be added to it
Shares = Callable[[int, str], float]  # (version, tensor's name): how many times that is added
Moved = list[tuple[str, Tensor, Tensor, Tensor]]  # a tensor's name, the module's own, its values as they are, the error


def answers_of_versions(
    model: Model,
    layers: Sequence[LayerFacts],
    data: Sequence[Batch],
    versions: int,
    errors: Errors,
    shares: Shares,
    report: Report,
    leaves_out: Callable[[int, str], bool] = lambda version, prefix: False,
) -> Iterator[tuple[int, int, list[Tensor]]]:
    """(batch, version, answers) of each batch in all versions, 0 the model as it is and 1 to `versions` as changed.

    A model without a row of blocks runs as a whole. `leaves_out(version, prefix)`: the blocks, by the prefix of their
    tensors' names, that a version does without.
    """
    yield from _Streams(model, layers, data, errors, shares, leaves_out).answers(versions, report)


def answers_without_blocks(
    model: Model, layers: Sequence[LayerFacts], data: Sequence[Batch], report: Report
) -> Iterator[tuple[int, int, list[Tensor]]]:
    """(batch, version, answers) of each batch, 0 of the whole model and n + 1 without block n of its row.

    What comes before a block is run once for all. Without a block that changes the shape of what it is given, the
    answers are not numbers.
    """
    streams = _Streams(model, layers, data, lambda name, values: None, lambda version, name: 0.0, lambda *_: False)
    yield from streams.without_blocks(report)


class _Streams(SequentialCalibration):
    def __init__(
        self,
        model: Model,
        layers: Sequence[LayerFacts],
        data: Sequence[Batch],
        errors: Errors,
        shares: Shares,
        leaves_out: Callable[[int, str], bool],
    ) -> None:
        super().__init__(model, layers, data, False)
        self.errors, self.shares, self.leaves_out = errors, shares, leaves_out
        self.hidden: list[list[Tensor]] = []  # by version and batch

    def answers(self, versions: int, report: Report) -> Iterator[tuple[int, int, list[Tensor]]]:
        if self.row:
            self._through(versions, report)
        yield from self._answers(versions, report)

    def without_blocks(self, report: Report) -> Iterator[tuple[int, int, list[Tensor]]]:
        outside = [*self._outside(), *self._inside(self.row[0])]
        self._fill(outside)
        hidden, calls = self._record(self.data)
        self.hidden = [hidden]
        release(self.module, outside)
        for index, prefix in enumerate(self.row):
            report.progress(index / (len(self.row) + 1), f"Blocks left out: block {index + 1} of {len(self.row)}")
            own = self._inside(prefix)
            self._fill(own)
            part, without = self.module.get_submodule(prefix[:-1]), list(self.hidden[0])
            with torch.no_grad():
                for states in self.hidden:
                    states[:] = [run_block(part, states, i, calls[index][i])() for i in range(len(self.data))]
            if without[0].shape != self.hidden[0][0].shape:  # what follows cannot take what the block was given
                without = [torch.full_like(states, math.nan) for states in self.hidden[0]]
            self.hidden.append(without)
            release(self.module, own)
            release_freed_memory()
        yield from self._answers(len(self.row), report, "Blocks left out")

    def _answers(
        self, versions: int, report: Report, what: str = "Mixed recipes"
    ) -> Iterator[tuple[int, int, list[Tensor]]]:
        outside = self._outside() if self.row else list(self.module.state_dict())
        self._fill(outside)
        moved = self._moved(outside)
        total = len(self.data) * (versions + 1)
        for number in range(total):
            batch, version = divmod(number, versions + 1)
            done = (len(self.row) + number / total) / (len(self.row) + 1)
            report.progress(done, f"{what}: answers to batch {batch + 1} of {len(self.data)}")
            self._move(version, moved)
            with torch.inference_mode():
                found = self._answered(batch, version)
            yield batch, version, found
            del found  # the next are as large
        release(self.module, outside)

    def _through(self, versions: int, report: Report) -> None:
        """Fills the hidden states that the last block leaves."""
        outside = [*self._outside(), *self._inside(self.row[0])]
        self._fill(outside)
        calls: list[list[BlockCall]] = []
        moved = self._moved(self._outside())
        for version in range(versions + 1):
            self._move(version, moved)
            hidden, calls = self._record(self.data)
            self.hidden.append(hidden)
        del moved
        release(self.module, outside)
        for index, prefix in enumerate(self.row):
            own = self._inside(prefix)
            self._fill(own)
            moved = self._moved(own)
            part = self.module.get_submodule(prefix[:-1])
            for version, hidden in enumerate(self.hidden):
                if self.leaves_out(version, prefix):
                    continue
                done = (index + version / len(self.hidden)) / (len(self.row) + 1)
                report.progress(done, f"Mixed recipes: block {index + 1} of {len(self.row)}")
                self._move(version, moved)
                with torch.no_grad():
                    hidden[:] = [run_block(part, hidden, i, calls[index][i])() for i in range(len(self.data))]
            del moved
            release(self.module, own)
            release_freed_memory()

    def _answered(self, batch: int, version: int) -> list[Tensor]:
        if not self.row:
            return answers(self.module, self.spec, self.data[batch])
        hidden = self.hidden[version][batch]
        with self._standing_in([lambda *_, **__: self._returned(hidden, batch)] * len(self.row)):
            return answers(self.module, self.spec, self.data[batch])

    def _moved(self, names: Sequence[str]) -> Moved:
        """Those of the module's tensors that versions change; tied ones once."""
        state, found = self.module.state_dict(), []
        for name in names:
            if name not in self.model.tied and not state[name].is_meta:
                error = self.errors(name, state[name])
                if error is not None:
                    found.append((name, state[name], state[name].clone(), error))
        return found

    def _move(self, version: int, moved: Moved) -> None:
        """Gives the module the weights of a version."""
        for name, own, before, error in moved:
            if version:
                torch.add(before, error, alpha=self.shares(version, name), out=own)
            else:
                own.copy_(before)
