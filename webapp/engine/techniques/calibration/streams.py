"""Several versions of a model run side by side, block by block: of each block one set of weights is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from webapp.engine.architectures.build import release
from webapp.engine.data.batches import Batch, answers
from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor, torch
from webapp.engine.progress import Report
from webapp.engine.weights.memory import release_freed_memory
from webapp.engine.weights.model import Model

from .sequential_calibration import BlockCall, SequentialCalibration, run_block

Change = Callable[[int, str, Tensor], Tensor | None]  # (version, tensor's name, its values): what is added to it


def answers_of_versions(
    model: Model, layers: Sequence[LayerFacts], data: Sequence[Batch], versions: int, change: Change, report: Report
) -> Iterator[tuple[int, int, list[Tensor]]]:
    """(batch, version, answers) of each batch in all versions, 0 the model as it is and 1 to `versions` as changed.

    A model without a row of blocks runs as a whole.
    """
    yield from _Streams(model, layers, data, change).answers(versions, report)


class _Streams(SequentialCalibration):
    def __init__(self, model: Model, layers: Sequence[LayerFacts], data: Sequence[Batch], change: Change) -> None:
        super().__init__(model, layers, data, False)
        self.change = change
        self.hidden: list[list[Tensor]] = []  # by version and batch

    def answers(self, versions: int, report: Report) -> Iterator[tuple[int, int, list[Tensor]]]:
        every = range(versions + 1)
        if self.row:
            self._through(versions, report)
        outside = self._outside() if self.row else list(self.module.state_dict())
        self._fill(outside)
        for batch in range(len(self.data)):
            report.progress((len(self.row) + 1) / (len(self.row) + 2), f"Answers to batch {batch + 1}")
            for version in every:
                with self._changed(version, outside), torch.inference_mode():
                    yield batch, version, self._answered(batch, version)
        release(self.module, outside)

    def _through(self, versions: int, report: Report) -> None:
        """Fills the hidden states that the last block leaves."""
        outside = [*self._outside(), *self._inside(self.row[0])]
        self._fill(outside)
        calls: list[list[BlockCall]] = []
        for version in range(versions + 1):
            with self._changed(version, self._outside()):
                hidden, calls = self._record(self.data)
            self.hidden.append(hidden)
        release(self.module, outside)
        for index, prefix in enumerate(self.row):
            report.progress(index / (len(self.row) + 2), f"Mixed recipes: block {index + 1} of {len(self.row)}")
            own = self._inside(prefix)
            self._fill(own)
            part = self.module.get_submodule(prefix[:-1])
            for version, hidden in enumerate(self.hidden):
                with self._changed(version, own), torch.no_grad():
                    hidden[:] = [run_block(part, hidden, i, calls[index][i])() for i in range(len(self.data))]
            release(self.module, own)
            release_freed_memory()

    def _answered(self, batch: int, version: int) -> list[Tensor]:
        if not self.row:
            return answers(self.module, self.spec, self.data[batch])
        hidden = self.hidden[version][batch]
        with self._standing_in([lambda *_, **__: self._returned(hidden, batch)] * len(self.row)):
            return answers(self.module, self.spec, self.data[batch])

    @contextmanager
    def _changed(self, version: int, names: Sequence[str]) -> Iterator[None]:
        """The module with the weights of a version, and then as it was; tied tensors change once."""
        before: list[tuple[Tensor, Tensor]] = []
        state = self.module.state_dict() if version else {}
        for name in names if version else ():
            if name not in self.model.tied:
                value = state[name]
                added = None if value.is_meta else self.change(version, name, value)
                if added is not None:
                    before.append((value, value.clone()))
                    value += added
        try:
            yield
        finally:
            for value, old in before:
                value.copy_(old)
