"""GPTQ's codes on the scales of llama.cpp's blocks: what rounding a column does wrong, those after it make up for.

GPTQ: Frantar et al. 2022, https://arxiv.org/abs/2210.17323. The scales (and of K-quants the minimums) are llama.cpp's
own, by the mean square of each input; those that are any float16 are fitted to the codes in the end.
"""

from __future__ import annotations

from dataclasses import replace
from glob import escape
from typing import Any

from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import ggml, ggml_codes, gptq, refining
from webapp.engine.recipe import StepSettings
from webapp.engine.techniques.base import Context, Outcome
from webapp.engine.techniques.calibration import Covariance, WeightMatrix
from webapp.engine.techniques.calibration.block_by_block import BlockByBlock
from webapp.engine.techniques.calibration.tied_heads import head_of
from webapp.engine.techniques.gptq import AT_A_TIME, SINGULAR
from webapp.engine.weights import Encoded, GgmlBlocks
from webapp.engine.weights.model import Model

from . import GgmlQuantization
from .mixtures import exact_type, fitting

DAMPING = 0.25  # of the covariance's mean diagonal: with 0.01 errors on unseen inputs were up to a third larger
PASSES = 1  # over scales and codes, once columns were rounded one after the other


class Compensating(GgmlQuantization):
    """What the technique does where compensation is asked for: layer by layer, each on what those before it put out."""

    statistic = Covariance  # type: ignore[assignment]
    at_once = False

    def compensate(self, model: Model, settings: StepSettings, context: Context) -> list[Outcome]:
        """A table that is the head too is rounded for what the head multiplies it with."""
        heads = {layer: head_of(model, layer) for layer in context.layers if layer.kind == "embedding"}
        asked = [heads.get(layer) or layer for layer in context.layers]
        own = [(escape(head.name), settings.of(layer)) for layer, head in heads.items() if head is not None]
        settings = replace(settings, overrides=(*settings.overrides, *own))
        done = BlockByBlock.apply(self, model, settings, replace(context, layers=asked))
        return [replace(outcome, layer=layer.name) for outcome, layer in zip(done, context.layers, strict=True)]

    def compress_matrix(
        self, matrix: WeightMatrix, statistic: Any, settings: Any, context: Context
    ) -> tuple[Encoded, Outcome]:
        assert isinstance(statistic, Covariance)
        whole, old, mean = matrix.floats(), matrix.encoded, statistic.mean
        self.delivered(matrix, statistic.sums.diagonal(dim1=1, dim2=2), statistic.count, context)
        found = fitting(exact_type(settings.type), whole.shape[1])
        rows = whole.chunk(matrix.groups)
        if self.name not in statistic.shared:  # with the matrices that read the same inputs
            given = zip(rows, mean, strict=True)
            statistic.shared[self.name] = [gptq.problem(own, inputs, DAMPING, True) for own, inputs in given]
        problems = statistic.shared[self.name]
        solved = [replace(given, matrix=own) for given, own in zip(problems, rows, strict=True) if given is not None]
        try:
            if found not in ggml_codes.BITS or len(solved) < len(problems):
                encoded = self._made(matrix, settings, mean.diagonal(dim1=1, dim2=2))
                return encoded, self.told(matrix, encoded, settings, "" if len(solved) == len(problems) else SINGULAR)
            blocks = [
                compensated(replace(given, matrix=some), inputs.diagonal(), found)
                for given, inputs in zip(solved, mean, strict=True)
                for some in torch.split(given.matrix, AT_A_TIME)
            ]
        except ValueError:  # values beyond the type's
            return old, self.told(matrix, old, settings, "")
        done = GgmlBlocks(torch.cat(blocks), found, old.shape, old.dtype, matrix.layout)
        return done, self.told(matrix, done, settings, "")


def compensated(given: gptq.RoundingProblem, importance: Tensor, name: str) -> Tensor:
    """Blocks uint8 (rows, bytes of a row) of the problem's matrix; `importance` and errors as of `ggml.quantized`."""
    blocks = ggml.quantized(given.matrix, name, importance)
    grid, low = ggml_codes.grid_of(blocks, name)
    moved = given if low is None else replace(given, matrix=given.matrix + grid.across(low, given.matrix.shape[1]))
    codes = gptq.rounded(moved, grid)
    if name not in ggml_codes.FREE:
        return ggml_codes.with_codes(blocks, name, codes)
    better, refitted = refining.refined(moved, codes, grid, None, PASSES)
    if refitted.scale.dtype != torch.float16:  # one is below float16's normal numbers
        return ggml_codes.with_codes(blocks, name, codes)
    return ggml_codes.with_codes(blocks, name, better, refitted.scale)
