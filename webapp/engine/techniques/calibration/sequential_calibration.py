"""Through a model block by block: each block is calibrated on what the compressed ones before it put out.

Only the block that is being worked on is in memory, with its inputs. A transformer's blocks are the
longest row of alike modules; what stands before them comes first and what stands after them last. A model without
such a row is one block.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from webapp.engine.architectures.build import fill, release, skeleton_of, sources
from webapp.engine.architectures.rows import rows_of_blocks
from webapp.engine.data.batches import Batch, outputs
from webapp.engine.facts import ArchitectureSpec, LayerFacts
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.progress import Report
from webapp.engine.weights.memory import release_freed_memory
from webapp.engine.weights.model import Model

from .block import CalibrationBlock
from .kept_blocks import KeptBlocks
from .matrices import WeightMatrix, weight_matrices
from .stacks import stacks_of


class _Reached(Exception):
    """The last block has been given its inputs: nothing after it is needed."""


@dataclass
class BlockCall:
    """How the model calls one of its blocks for one batch, but for the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def calibration_blocks(
    model: Model,
    layers: Sequence[LayerFacts],
    data: Sequence[Batch],
    report: Report,
    what: str = "Calibrating",
    originals: bool = False,
    kept: KeptBlocks | None = None,
) -> Iterator[CalibrationBlock]:
    """The blocks that hold these layers' matrices, in order. What the consumer `keep`s is what the next block sees.

    With `originals` each block has a twin with the weights and inputs that it had before this step. Those that are done
    according to `kept` are not gone through again.
    """
    calibration = SequentialCalibration(model, layers, data, originals, kept)
    total = len(calibration.row) or 1
    for number, block in enumerate(calibration.blocks()):
        done = (calibration.restored + number) / (total + 1)
        report.progress(min(done, 1.0), f"{what}: {block.name or 'the model'}")
        yield block
    report.progress(1.0)


def block_states(
    model: Model, layers: Sequence[LayerFacts], data: Sequence[Batch], report: Report, what: str
) -> Iterator[tuple[int, list[Tensor], list[Tensor], list[Tensor | None]]]:
    """(index, hidden states before, and after, padding masks) of each block in the row, batch by batch."""
    calibration = SequentialCalibration(model, layers, data, originals=False)
    for index, before, after in calibration.states():
        report.progress(index / len(calibration.row), f"{what}: block {index + 1} of {len(calibration.row)}")
        yield index, before, after, calibration.masks


class SequentialCalibration:
    """A model's blocks in order, with only one of them in memory."""

    def __init__(
        self,
        model: Model,
        layers: Sequence[LayerFacts],
        data: Sequence[Batch],
        originals: bool,
        kept: KeptBlocks | None = None,
    ) -> None:
        assert model.architecture is not None
        self.kept, self.restored = kept, 0  # blocks that an earlier process did
        self.model, self.data, self.spec = model, data, model.architecture
        self.originals = originals
        self.beside: list[tuple[Any, ...] | None] = []  # of each batch: what blocks return after the hidden states
        self.module = skeleton_of(model)
        config: Any = getattr(self.module, "config", None)
        if config is not None:
            config.use_cache = False  # a block would be given what earlier passes through it left
        self.matrices = weight_matrices(model, layers, self.module)
        self.stacks = stacks_of(model, layers, self.module)
        self.masks = [batch.inputs.get("attention_mask") for batch in data]
        self.row: list[str] = []
        for path in rows_of_blocks(self.module):
            self.row = [f"{path}.{index}." for index in range(len(list(self.module.get_submodule(path).children())))]
            if self._is_chained():
                break
            self.row = []

    def blocks(self) -> Iterator[CalibrationBlock]:
        if not self.row:
            self._fill(list(self.module.state_dict()))
            twin = copy.deepcopy(self.module) if self.originals else None
            again = self._whole(twin) if twin else ()
            runs = self._whole(self.module)
            yield CalibrationBlock(
                "", self.module, "", self.matrices, runs, self.masks, False, twin, again, self.stacks
            )
            return
        goes_on = self.kept is not None and self.kept.there
        outside = self._outside()
        self._fill([*outside, *self._inside(self.row[0])])
        loose = [matrix for matrix in self.matrices if not any(matrix.path.startswith(prefix) for prefix in self.row)]
        before = self._before(loose)
        if before and not goes_on:
            yield CalibrationBlock("before the blocks", self.module, "", before, self._up_to_the_blocks(), self.masks)
        if len(before) == len(self.matrices) and not self.stacks:
            return
        hidden, calls = self._record(self.data)
        untouched = list(hidden) if self.originals else []
        release(self.module, [*outside, *self._inside(self.row[0])])
        if goes_on and self.kept is not None:
            self.restored, hidden, untouched = self.kept.restored()
        after = [matrix for matrix in loose if matrix not in before]
        for index, prefix in enumerate(self.row[self.restored :], self.restored):
            own = self._inside(prefix)
            matrices = [matrix for matrix in self.matrices if matrix.path.startswith(prefix)]
            self._fill(own)
            part = self.module.get_submodule(prefix[:-1])
            runs = [run_block(part, hidden, i, calls[index][i]) for i in range(len(self.data))]
            twin = copy.deepcopy(part) if self.originals else None
            again = [run_block(twin, untouched, i, calls[index][i]) for i in range(len(untouched))] if twin else []
            stacks = [stack for stack in self.stacks if stack.layer.weight.startswith(prefix)]
            block = CalibrationBlock(prefix[:-1], part, prefix, matrices, runs, self.masks, True, twin, again, stacks)
            if matrices or stacks:
                yield block
            if after or index + 1 < len(self.row):
                hidden[:], untouched[:] = block.leave()
            release(self.module, own)
            release_freed_memory()
            if self.kept is not None and index + 1 < len(self.row):
                self.kept.keep(index + 1, hidden, untouched)
        if after:
            self._fill(outside)
            yield CalibrationBlock(
                "after the blocks", self.module, "", after, self._after_the_blocks(hidden), self.masks
            )
            release(self.module, outside)

    def states(self) -> Iterator[tuple[int, list[Tensor], list[Tensor]]]:
        outside = [*self._outside(), *self._inside(self.row[0])]
        self._fill(outside)
        hidden, calls = self._record(self.data)
        release(self.module, outside)
        for index, prefix in enumerate(self.row):
            self._fill(self._inside(prefix))
            part, before = self.module.get_submodule(prefix[:-1]), list(hidden)
            with torch.no_grad():
                hidden[:] = [run_block(part, before, i, calls[index][i])() for i in range(len(self.data))]
            yield index, before, hidden
            release(self.module, self._inside(prefix))

    def _is_chained(self) -> bool:
        """Whether what a block puts out is what the next is given: stages narrow an image between their blocks."""
        state = self.module.state_dict()
        shapes = [{name.removeprefix(p): state[name].shape for name in self._inside(p)} for p in self.row]
        if not self.data or all(each == shapes[0] for each in shapes):
            return True
        outside = [*self._outside(), *self._inside(self.row[0])]
        self._fill(outside)
        hidden, calls = self._record([self.data[0]])
        with torch.no_grad():
            left = run_block(self.module.get_submodule(self.row[0][:-1]), hidden, 0, calls[0][0])()
        release(self.module, outside)
        return left.shape == hidden[0].shape

    def _outside(self) -> list[str]:
        """The tensors that are in no block of the row."""
        return [n for n in self.module.state_dict() if not any(n.startswith(prefix) for prefix in self.row)]

    def _inside(self, prefix: str) -> list[str]:
        return [name for name in self.module.state_dict() if name.startswith(prefix)]

    def _fill(self, names: list[str]) -> None:
        fill(self.module, sources(self.model, self.module), names, self.model.tied)

    def _whole(self, module: nn.Module) -> list[Callable[[], Tensor]]:
        return [_forward(module, self.spec, batch) for batch in self.data]

    def _before(self, loose: list[WeightMatrix]) -> list[WeightMatrix]:
        """Those matrices outside the row that run before it."""
        seen: list[WeightMatrix] = []
        handles = [
            self.module.get_submodule(matrix.path).register_forward_pre_hook(
                lambda *_, matrix=matrix: seen.append(matrix)
            )
            for matrix in loose
        ]
        self._up_to_the_blocks()[0]()
        for handle in handles:
            handle.remove()
        return [matrix for matrix in loose if matrix in seen]

    def _up_to_the_blocks(self) -> list[Callable[[], Tensor]]:
        def run(batch: Batch) -> Callable[[], Tensor]:
            def go() -> Tensor:
                self._record([batch])
                return torch.empty(0)

            return go

        return [run(batch) for batch in self.data]

    def _record(self, data: Sequence[Batch]) -> tuple[list[Tensor], list[list[BlockCall]]]:
        """The first block's inputs, and how each block is called, by block and batch; `beside` of these batches."""
        hidden: list[Tensor] = []
        calls: list[list[BlockCall]] = [[] for _ in self.row]
        first = self.module.get_submodule(self.row[0][:-1])
        self.beside = []

        def recorder(index: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                x = args[0] if args else kwargs["hidden_states"]
                if index == 0:
                    hidden.append(x.detach())
                    found = type(first).forward(first, *args, **kwargs)
                    self.beside.append(found[1:] if isinstance(found, tuple) else None)
                rest = {key: value for key, value in kwargs.items() if key != "hidden_states"}
                calls[index].append(BlockCall(args[1:], rest))
                if index == len(self.row) - 1:
                    raise _Reached
                return self._returned(x, -1)

            return forward

        with self._standing_in([recorder(index) for index in range(len(self.row))]), torch.no_grad():
            for batch in data:
                with suppress(_Reached):
                    outputs(self.module, self.spec, batch)
        return hidden, calls

    def _returned(self, hidden: Tensor, index: int) -> Any:
        """What a block returns for a batch, with these hidden states."""
        beside = self.beside[index]
        return hidden if beside is None else (hidden, *beside)

    @contextmanager
    def _standing_in(self, forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
        """These functions in the place of the blocks' own."""
        row = [self.module.get_submodule(prefix[:-1]) for prefix in self.row]
        for part, forward in zip(row, forwards, strict=True):
            part.forward = forward
        try:
            yield
        finally:
            for part in row:
                del part.forward  # the class has the block's own

    def _after_the_blocks(self, hidden: list[Tensor]) -> list[Callable[[], Tensor]]:
        """The model with its blocks passed over: what they put out is given in their place."""

        def run(index: int) -> Callable[[], Tensor]:
            def pass_over(*_: Any, **__: Any) -> Any:
                return self._returned(hidden[index], index)

            def go() -> Tensor:
                with self._standing_in([pass_over] * len(self.row)):
                    return outputs(self.module, self.spec, self.data[index])

            return go

        return [run(index) for index in range(len(self.data))]


def _forward(module: nn.Module, spec: ArchitectureSpec, batch: Batch) -> Callable[[], Tensor]:
    return lambda: outputs(module, spec, batch)


def run_block(part: nn.Module, hidden: list[Tensor], index: int, call: BlockCall) -> Callable[[], Tensor]:
    def run() -> Tensor:
        found = part(hidden[index], *call.args, **call.kwargs)
        first: Tensor = found[0] if isinstance(found, tuple) else found
        return first

    return run
