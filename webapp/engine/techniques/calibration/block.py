"""A part of the model that is calibrated at once, with its weights and its inputs in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from greenlet import getcurrent, greenlet

from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.weights import Encoded

from .matrices import WeightMatrix, columns_of, geometry, inputs_as_rows
from .residuals import ResidualPlace, residual_places
from .stacks import Stack
from .statistics import Statistic

MOST_STAGES = 8  # of a model without repeating blocks: each costs a pass through it
Kept = TypeVar("Kept", bound=Statistic)


class Pass:
    """One batch on its way through a module with `stops` on the way: `stop` is the one it has reached.

    `passed` has what came by at each of the places that are watched.
    """

    def __init__(self, run: Callable[[], Tensor], stops: int) -> None:
        self.stop, self._end = -1, stops
        self.passed: dict[ResidualPlace, Tensor] = {}
        self._value = torch.empty(0)
        self._flow = greenlet(lambda: (self._end, run()))
        _PASSED[self._flow] = self.passed

    def input_at(self, stop: int) -> Tensor | None:
        """What the layer there is given; None where the batch does not come by."""
        while self.stop < stop:
            with torch.no_grad():
                self.stop, self._value = self._flow.switch()
        return self._value if self.stop == stop else None

    def end(self) -> Tensor:
        """What comes out of the module."""
        found = self.input_at(self._end)
        assert found is not None
        return found


# of every pass that is under way
_PASSED: WeakKeyDictionary[greenlet, dict[ResidualPlace, Tensor]] = WeakKeyDictionary()


@contextmanager
def stops(modules: Sequence[nn.Module], paths: Sequence[str], watched: Iterable[ResidualPlace] = ()) -> Iterator[None]:
    """Passes through these modules stop before each of their parts at `paths`, which are called in this order."""
    home = getcurrent()

    def note(place: ResidualPlace) -> Callable[[Any], None]:
        def told(value: Any) -> None:
            if getcurrent() is not home:
                _PASSED[getcurrent()][place] = value

        return told

    def pause(stop: int) -> Callable[..., None]:
        def before(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if getcurrent() is not home:
                home.switch((stop, args[0]))

        return before

    handles = [
        module.get_submodule(path).register_forward_pre_hook(pause(stop))
        for module in modules
        for stop, path in enumerate(paths)
    ]
    handles += [place.watch(module, note(place)) for module in modules for place in watched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Enough(Exception):
    """Every layer that was asked for has seen its input; the rest of the forward pass is not needed."""


@dataclass
class CalibrationBlock:
    """`module` holds the matrices' modules under their whole paths less `prefix`; `runs[i]` sends batch i through.

    `masks[i]` (B, T) marks the tokens of batch i that are not padding, or is None. Where the original is kept,
    `twin` is the part as it was before this step, and `twin_runs[i]` sends through it what the original gave it.
    """

    name: str
    module: nn.Module
    prefix: str
    matrices: list[WeightMatrix]
    runs: Sequence[Callable[[], Tensor]]
    masks: Sequence[Tensor | None]
    repeats: bool = False  # one of a row of alike blocks
    twin: nn.Module | None = None
    twin_runs: Sequence[Callable[[], Tensor]] = ()
    stacks: Sequence[Stack] = ()  # experts within it
    _order: list[tuple[WeightMatrix, int]] = field(default_factory=list)
    _left: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    def part(self, matrix: WeightMatrix) -> nn.Module:
        return self.module.get_submodule(matrix.path.removeprefix(self.prefix))

    def stages(self) -> list[list[WeightMatrix]]:
        """The matrices in the order in which they run, those that read the same input together.

        What is compressed in one stage is seen by the next. Slots that no sample reaches come last.
        """
        order = self._executed()
        groups: list[list[WeightMatrix]] = []
        seen: dict[int, list[WeightMatrix]] = {}
        for matrix, source in order:
            if source not in seen:
                seen[source] = []
                groups.append(seen[source])
            seen[source].append(matrix)
        reached = {matrix.path for matrix, _ in order}
        rest = [matrix for matrix in self.matrices if matrix.path not in reached]
        if not self.repeats and len(groups) > MOST_STAGES:
            size = -(-len(groups) // MOST_STAGES)
            groups = [list(chain(*groups[start : start + size])) for start in range(0, len(groups), size)]
        return groups + ([rest] if rest else [])

    def staged(self, make: Callable[[int, int], Kept]) -> Iterator[tuple[list[WeightMatrix], dict[str, Kept]]]:
        """Each of the `stages` with its matrices' statistics, once those before it are kept.

        The samples go through a repeating block once for all stages, and `leave` has what came out of it.
        """
        stages = self.stages()
        if not self.repeats or len(self._executed()) < len(self.matrices):
            for stage in stages:
                yield stage, self.collect(stage, make)
            return
        paths = [stage[0].path.removeprefix(self.prefix) for stage in stages]
        own = [Pass(run, len(stages)) for run in self.runs]
        twins: list[Pass | None] = [*(Pass(run, len(stages)) for run in self.twin_runs)] or [None] * len(own)
        modules = [self.module] if self.twin is None else [self.module, self.twin]
        streams = {} if self.twin is None else residual_places(self.module, self.runs[0], paths)
        with stops(modules, paths, set(streams.values())):
            for stop, stage in enumerate(stages):
                made, first = self._empty(stage, make)
                stream = streams.get(paths[stop]) if len(stage) == 1 else None
                for index, (here, twin) in enumerate(zip(own, twins, strict=True)):
                    x = here.input_at(stop)
                    original = twin.input_at(stop) if twin else None
                    if x is not None:
                        missing = twin.passed[stream] - here.passed[stream] if twin and stream else None
                        for matrix in first:
                            self._add(made, matrix, index, x, original, missing)
                yield stage, made
            self._left = [(here.end(), twin.end() if twin else None) for here, twin in zip(own, twins, strict=True)]

    def changed(self) -> None:
        """What came out of it was computed with other weights."""
        self._left = []

    def leave(self) -> tuple[list[Tensor], list[Tensor]]:
        """What every batch leaves the part with, and what it left the original with, where that is kept."""
        if self._left:
            return [own for own, _ in self._left], [twin for _, twin in self._left if twin is not None]
        with torch.no_grad():
            return [run() for run in self.runs], [run() for run in self.twin_runs]

    def collect(self, matrices: Sequence[WeightMatrix], make: Callable[[int, int], Kept]) -> dict[str, Kept]:
        """A statistic for each matrix by its path, `make(groups, columns)`d; those that see the same rows share one."""
        made, first = self._empty(matrices, make)
        by_path = {matrix.path: matrix for matrix in first}
        for index in range(len(self.runs)):
            twin = self.twin
            before = {} if twin is None else dict(self._seen_by(twin, self.twin_runs[index], first))
            for path, x in self._seen_by(self.module, self.runs[index], first):
                self._add(made, by_path[path], index, x, before.get(path))
        return made

    def _empty(
        self, matrices: Sequence[WeightMatrix], make: Callable[[int, int], Kept]
    ) -> tuple[dict[str, Kept], list[WeightMatrix]]:
        """A statistic for each matrix by its path, and the first of each; those that see the same rows share one."""
        sources = {matrix.path: source for matrix, source in self._executed()}
        made: dict[str, Kept] = {}
        first: list[WeightMatrix] = []
        shared: dict[tuple[Any, ...], Kept] = {}
        for matrix in matrices:
            part = self.part(matrix)
            key = (sources.get(matrix.path, matrix.path), *geometry(part))
            if key not in shared:
                shared[key] = make(matrix.groups, columns_of(part))
                first.append(matrix)
            made[matrix.path] = shared[key]
        return made, first

    def _add(
        self,
        made: dict[str, Kept],
        matrix: WeightMatrix,
        index: int,
        x: Tensor,
        original: Tensor | None,
        missing: Tensor | None = None,
    ) -> None:
        part, mask = self.part(matrix), self.masks[index]
        before = None if original is None else inputs_as_rows(part, original, matrix.groups, mask)
        lack = None if missing is None else inputs_as_rows(nn.Identity(), missing, 1, mask)[:, 0]
        made[matrix.path].add(inputs_as_rows(part, x, matrix.groups, mask), before, lack)

    def inputs(self, matrices: Sequence[WeightMatrix], index: int) -> list[tuple[WeightMatrix, Tensor]]:
        """What each of these matrices is given for batch `index`, in the order in which they run."""
        by_path = {matrix.path: matrix for matrix in matrices}
        return [(by_path[path], x) for path, x in self._seen_by(self.module, self.runs[index], matrices)]

    def outputs(self, index: int) -> Tensor:
        """What the part puts out for batch `index`, with the weights that it has now."""
        with torch.no_grad():
            return self.runs[index]()

    def keep(self, matrix: WeightMatrix, encoded: Encoded) -> None:
        """The matrix's new form: into the model, and its values into the running module."""
        matrix.keep(encoded)
        weight = self.part(matrix).weight
        assert isinstance(weight, nn.Parameter)
        weight.data = matrix.value().to(weight.dtype)

    def _executed(self) -> list[tuple[WeightMatrix, int]]:
        """(matrix, number of its input): equal numbers are the very same tensor. From one pass over the first batch."""
        if not self._order and self.matrices:
            by_path = {matrix.path: matrix for matrix in self.matrices}
            seen = [(by_path[path], x) for path, x in self._seen_by(self.module, self.runs[0], self.matrices)]
            numbers: list[Tensor] = []
            for matrix, x in seen:
                index = next((i for i, other in enumerate(numbers) if other is x), len(numbers))
                if index == len(numbers):
                    numbers.append(x)
                if all(matrix.path != known.path for known, _ in self._order):
                    self._order.append((matrix, index))
        return self._order

    def _seen_by(
        self, module: nn.Module, run: Callable[[], Tensor], matrices: Sequence[WeightMatrix]
    ) -> list[tuple[str, Tensor]]:
        """(matrix's path, its input) for one batch; the pass ends when the last of the matrices has been reached."""
        seen: list[tuple[str, Tensor]] = []
        wanted = {matrix.path for matrix in matrices}

        def watch(path: str) -> Callable[..., None]:
            def before(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                seen.append((path, args[0]))  # the very tensor: who shares it is told by identity
                wanted.discard(path)
                if not wanted:
                    raise _Enough

            return before

        parts = [(matrix.path, module.get_submodule(matrix.path.removeprefix(self.prefix))) for matrix in matrices]
        handles = [part.register_forward_pre_hook(watch(path)) for path, part in parts]
        try:
            with torch.no_grad(), suppress(_Enough):
                run()
        finally:
            for handle in handles:
                handle.remove()
        return seen
