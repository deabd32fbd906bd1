"""The way of techniques that calibrate: block by block, layer by layer, each on what the compressed ones put out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from webapp.engine.data.memory import ModelMemory
from webapp.engine.errors import some
from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import torch
from webapp.engine.progress import Silent
from webapp.engine.recipe import StepSettings
from webapp.engine.techniques.base import MATRICES, AtWork, Context, Outcome, Skip, Technique
from webapp.engine.weights import Encoded
from webapp.engine.weights.model import Model

from . import CalibrationBlock, Covariance, KeptBlocks, Statistic, WeightMatrix
from .sequential_calibration import calibration_blocks
from .stacks import Stack, put_together

UNREACHED = "no calibration sample reached it"
UNSEEN = {  # kinds whose inputs are not seen, or not of every model
    "recurrent": "its inputs within the sequence are not seen",
    "experts": "what reaches each of its experts is not seen here",
}


class BlockByBlock(Technique):
    """Calls `compress_matrix` for each matrix in the order in which the model runs them.

    `statistic` is what is kept of each matrix's inputs. With `originals` the activations of the model as it was before
    this step are kept too. Settings must have `samples`.
    """

    needs = frozenset({"calibration", "architecture"})
    layers = MATRICES
    statistic: ClassVar[type[Statistic]]
    at_once: ClassVar[bool] = False  # a repeating block's layers are all judged before one of them changes
    originals: ClassVar[bool] = False
    rows_together: ClassVar[bool] = False  # matrices that read the same are compressed as one
    without_data: ClassVar[str]  # "so it was rounded to nearest"

    def working_bytes(self, at: AtWork) -> int:
        return super().working_bytes(at) + (at.walk(2) - at.walk() if self.originals and at.walks else 0)

    def kept_bytes(self, at: AtWork, after: ModelMemory, file_bytes: int) -> int:
        return at.kept(file_bytes)

    def apply(self, model: Model, settings: StepSettings, context: Context) -> list[Outcome]:
        data = context.calibration(settings.own.samples)
        found: dict[str, list[Outcome]] = {layer.name: [] for layer in context.layers}
        kept = KeptBlocks(context.scratch, model, found, context.importance)
        walk = (model, context.layers, data, context.report, self.title, self.originals, kept)
        for block in calibration_blocks(*walk):
            for matrix, outcome in self.compress_block(block, settings, context):
                found[matrix.layer.name].append(outcome)
            for stack in block.stacks:
                found[stack.layer.name].append(self.compress_stack(block, stack, settings.of(stack.layer), context))
        for layer in context.layers:
            if not found[layer.name]:
                found[layer.name] = [self._alone(matrix, settings.of(layer)) for matrix in matrices_of(model, layer)]
        return [joined(found[layer.name]) for layer in context.layers]

    def _alone(self, matrix: WeightMatrix, settings: Any) -> Outcome:
        """A matrix whose inputs nobody saw."""
        with torch.no_grad():
            encoded = self.plainly(matrix, settings)
        matrix.keep(encoded)
        return self._plain(matrix, encoded, settings, UNSEEN.get(matrix.layer.kind, UNREACHED))

    def _plain(self, matrix: WeightMatrix, encoded: Encoded, settings: Any, why: str) -> Outcome:
        return replace(self.told(matrix, encoded, settings, f"{why}, {self.without_data}"), ok=False)

    def compress_stack(self, block: CalibrationBlock, stack: Stack, settings: Any, context: Context) -> Outcome:
        """Each expert by what the samples gave it; those that none reached, and levels that all share, plainly."""
        made, alone = [], []
        with torch.no_grad():
            for number, (matrix, statistic) in enumerate(stack.collected(block, self.statistic)):
                if statistic.count:
                    made.append(self.compress_matrix(matrix, statistic, settings, context)[0])
                else:
                    made.append(self.plainly(matrix, settings))
                    alone.append(str(number))
            encoded, why = put_together(stack, made), ""
            if encoded is None:
                encoded, why = self.plainly(stack.matrix, settings), "its experts share one table of levels"
            elif alone:
                why = f"no calibration sample reached expert{'s' if alone[1:] else ''} {some(alone)}"
        stack.keep(block, encoded)
        if why:
            return self._plain(stack.matrix, encoded, settings, why)
        return self.told(stack.matrix, encoded, settings, "")

    def compress_block(
        self, block: CalibrationBlock, settings: StepSettings, context: Context
    ) -> Sequence[tuple[WeightMatrix, Outcome]]:
        """Everything in one block: its stages in order, each seen by the next."""
        done = []
        together = (
            [(block.matrices, block.collect(block.matrices, self.statistic))]
            if self.at_once and block.repeats
            else None
        )
        for stage, statistics in together or block.staged(self.statistic):
            unseen = [matrix for matrix in stage if not statistics[matrix.path].count]
            for matrix in unseen:
                own = settings.of(matrix.layer)
                with torch.no_grad():
                    encoded = self.plainly(matrix, own)
                block.keep(matrix, encoded)
                done.append((matrix, self._plain(matrix, encoded, own, UNREACHED)))
            rest = [matrix for matrix in stage if statistics[matrix.path].count]
            for alike in self._alike(rest, statistics, settings):
                statistic, own = statistics[alike[0].path], settings.of(alike[0].layer)
                try:
                    with torch.no_grad():
                        made = self.compress_alike(alike, statistic, own, context)
                except Skip as reason:
                    for matrix in alike:
                        asked = self.asked(matrix.layer, own)
                        done.append((matrix, Outcome.left(matrix.layer.name, asked, str(reason))))
                    continue
                for matrix, (encoded, outcome) in zip(alike, made, strict=True):
                    block.keep(matrix, encoded)
                    done.append((matrix, outcome))
        return done

    def trials(
        self, matrix: WeightMatrix, inputs: Covariance | None, choices: Sequence[Any]
    ) -> Iterator[Encoded | None]:
        if inputs is None or not inputs.count:
            yield from (self.plainly(matrix, settings) for settings in choices)
            return
        statistic, context = self.statistic.of(inputs), Context([matrix.layer], 0, Silent())
        for settings in choices:
            try:
                yield self.compress_matrix(matrix, statistic, settings, context)[0]
            except Skip:
                yield None

    def _alike(
        self, matrices: Sequence[WeightMatrix], statistics: Mapping[str, Statistic], settings: StepSettings
    ) -> list[list[WeightMatrix]]:
        """Those that `compress_alike` takes at once."""
        found: list[list[WeightMatrix]] = []
        for matrix in matrices:
            own, statistic = settings.of(matrix.layer), statistics[matrix.path]
            for other in found if self.rows_together else ():
                if statistics[other[0].path] is statistic and settings.of(other[0].layer) == own:
                    other.append(matrix)
                    break
            else:
                found.append([matrix])
        return found

    def compress_alike(
        self, matrices: Sequence[WeightMatrix], statistic: Any, settings: Any, context: Context
    ) -> list[tuple[Encoded, Outcome]]:
        """Of a stage one matrix, or with `rows_together` those that read the same inputs and have the same settings."""
        return [self.compress_matrix(matrix, statistic, settings, context) for matrix in matrices]

    @abstractmethod
    def asked(self, layer: LayerFacts, settings: Any) -> str: ...

    @abstractmethod
    def compress_matrix(
        self, matrix: WeightMatrix, statistic: Any, settings: Any, context: Context
    ) -> tuple[Encoded, Outcome]:
        """The matrix in its new form (shape and dtype as `matrix.encoded` has them). Raises Skip with the reason."""

    @abstractmethod
    def plainly(self, matrix: WeightMatrix, settings: Any) -> Encoded:
        """The matrix in its new form where nothing is known of its inputs; `without_data` says how, in words."""

    @abstractmethod
    def told(self, matrix: WeightMatrix, encoded: Encoded, settings: Any, note: str) -> Outcome:
        """The row of a matrix that `plainly` made, or of a stack."""


def matrices_of(model: Model, layer: LayerFacts) -> Iterator[WeightMatrix]:
    """The layer's matrix, or those of its factors, where nothing has to run."""
    for side in model.weights[layer.weight].factors or ("",):
        yield WeightMatrix(layer, f"{layer.name}.{side}".rstrip("."), side, layer.layout, model)


def joined(parts: Sequence[Outcome]) -> Outcome:
    """One line for a layer out of those of its matrices; a factored layer has two."""
    first = parts[0]
    if len(parts) == 1:
        return first
    done = " and ".join(dict.fromkeys(part.done for part in parts))
    notes = " ".join(dict.fromkeys(part.note for part in parts if part.note))
    skipped = all(part.skipped for part in parts)
    return Outcome(first.layer, first.asked, done, ok=all(p.ok for p in parts), skipped=skipped, note=notes)
