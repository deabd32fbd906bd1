"""What the factors of each layer shall come close to, and in which metric: the weight itself, or its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from webapp.engine.data.batches import Batch
from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.math import mismatch, obs, whitening
from webapp.engine.math.whitening import InputMetric, OutputMetric
from webapp.engine.progress import Report, tracked
from webapp.engine.techniques.calibration import (
    CalibrationBlock,
    Covariance,
    CrossCovariance,
    KeptBlocks,
    WeightMatrix,
    calibration_blocks,
)
from webapp.engine.techniques.calibration.gradients import Learned, MatrixGradients
from webapp.engine.weights import Dense, Encoded
from webapp.engine.weights.model import Model

from .factorizations import Factorization

ROUNDING = 2.0**-22  # of sums in float32, beside their trace
GRADIENTS, LOSSES = "gradients", "losses"  # what is learned of a matrix before the walk
TRIALS = 4  # batches on which the effect of one layer's factors on its block is measured


@dataclass(frozen=True)
class Goal:
    """`target` float64 (out, in * kernel); without a `metric` every direction of the inputs counts alike, and without
    `outputs` every output.

    `keep` puts the factors into the model; what comes after them is then seen with them in place. `effect` says how
    much they would change what the block puts out, as a share of its squares; None where nothing runs.
    """

    layer: LayerFacts
    dtype: torch.dtype
    target: Tensor
    metric: InputMetric | None
    keep: Callable[[Encoded], None]
    note: str = ""
    effect: Callable[[Encoded], float] | None = None
    outputs: OutputMetric | None = None


def plain_goals(model: Model, layers: Sequence[LayerFacts], report: Report, title: str) -> Iterator[Goal]:
    """Every weight as it is."""
    for layer in tracked(layers, report, title + ": {item.name} ({index} of {total})"):
        weight = model.weights[layer.weight].decode()
        matrix = layer.layout.matrix(weight)

        def keep(encoded: Encoded, name: str = layer.weight) -> None:
            model.weights[name] = encoded

        yield Goal(layer, weight.dtype, matrix.double(), None, keep)


def whitened_goals(
    model: Model,
    layers: Sequence[LayerFacts],
    data: Sequence[Batch],
    report: Report,
    title: str,
    kept: KeptBlocks | None,
    gradients: Learned | None = None,
) -> Iterator[Goal]:
    """What answers best on each layer's inputs, in the metric of these inputs and, where they are known, of the
    gradients at its outputs; layers in the order in which they run.

    Where blocks are `kept` the inputs are those that the factors kept so far leave, and the answers are the original's;
    else nothing may be put into the model. Where a layer has a bias, the bias takes what is lost in the mean.
    """
    for block in calibration_blocks(model, layers, data, report, title, kept is not None, kept):
        trial = _BlockOutputs(block)
        for stage, statistics in block.staged(Covariance if kept is None else CrossCovariance):
            inputs: dict[tuple[int, bool], _Inputs] = {}  # of matrices that read the same
            for matrix in stage:
                found, bias = statistics.pop(matrix.path), _bias(block, matrix)
                if matrix.groups == 1 and found.count:
                    key = (id(found), bias is not None)
                    if key not in inputs:
                        inputs[key] = _Inputs(found, centred=bias is not None)
                    seen = None if gradients is None else gradients.get(matrix.path, GRADIENTS)
                    outputs = None if seen is None else whitening.output_metric(seen)
                    yield _goal(block, matrix, inputs[key], bias, trial, outputs)


def expected_losses(found: MatrixGradients, form: Factorization | None) -> dict[str, Tensor]:
    """The gradients' covariance, and what each of the form's ranks is expected to lose, in the unit of the receipt.

    About the mean where a bias takes what is lost in it.
    """
    if found.matrix.groups > 1:
        return {}
    kept, outputs = {GRADIENTS: found.gradients[0]}, whitening.output_metric(found.gradients[0])
    if form is None or outputs is None:
        return kept
    centred = f"{found.matrix.layer.name}.bias" in found.matrix.model.weights
    if centred not in found.inputs.shared:
        found.inputs.shared[centred] = _Inputs(found.inputs, centred).metric
    metric: InputMetric = found.inputs.shared[centred]
    losses = torch.tensor(form.expected(found.matrix.floats().double(), metric, outputs)) / found.inputs.count
    return kept | {LOSSES: losses}


class _BlockOutputs:
    """What a block puts out with other values in one of its weights."""

    def __init__(self, block: CalibrationBlock) -> None:
        self.block = block

    @cached_property
    def usual(self) -> list[Tensor]:
        """Of a few batches, with the weights as they are."""
        return [self.block.outputs(index) for index in range(min(TRIALS, len(self.block.runs)))]

    def effect(self, matrix: WeightMatrix, encoded: Encoded) -> float:
        usual, weight = self.usual, self.block.part(matrix).weight
        assert isinstance(weight, nn.Parameter)
        own, weight.data = weight.data, encoded.decode().to(weight.dtype)
        changed = sum(float((self.block.outputs(i) - y).square().sum()) for i, y in enumerate(usual))
        weight.data = own
        return changed / max(sum(float(y.square().sum()) for y in usual), 1e-30)


class _Inputs:
    """The means and the metric of what a layer is given, about the mean where that is left to a bias."""

    def __init__(self, found: Covariance, centred: bool) -> None:
        self.mean = found.total[0].double() / found.count
        sums = found.sums[0].double()
        noise = ROUNDING * float(sums.diagonal().sum()) if centred else 0.0
        if centred:
            sums.addr_(self.mean, self.mean, alpha=-found.count)
        self.metric = whitening.metric(sums, noise=noise)
        self.crossed = found if isinstance(found, CrossCovariance) and found.compared else None
        if self.crossed is None:
            return
        share = max(mismatch.DAMPING, noise / max(float(sums.diagonal().mean()), 1e-300))
        self.curve = obs.curvature(sums.float(), share)
        self.drift, self.lack = self.crossed.drift[0], self.crossed.lack
        self.drift_mean = self.crossed.drift_total[0].double() / found.count
        total = self.crossed.lack_total
        self.lack_mean = None if total is None else total.double() / found.count
        if centred:
            self.drift = torch.addr(self.drift.double(), self.mean, self.drift_mean, alpha=-found.count).float()
            if self.lack is not None and self.lack_mean is not None:
                self.lack = torch.addr(self.lack.double(), self.mean, self.lack_mean, alpha=-found.count).float()

    def target(self, weight: Tensor) -> Tensor:
        """What makes up for the layers before, where the original is there to compare with."""
        if self.crossed is None or self.curve.damping is None:
            return weight.double()
        return mismatch.made_up_for(weight, self.curve.factor, self.drift, self.lack).double()

    def shift(self, weight: Tensor, now: Tensor) -> Tensor:
        """(out,): what a bias takes of the mean answers of `weight` on the original's inputs that `now` misses."""
        found = (weight.double() - now.double()) @ self.mean
        if self.crossed is not None:
            found += weight.double() @ self.drift_mean
            found += 0.0 if self.lack_mean is None else self.lack_mean
        return found


def _goal(
    block: CalibrationBlock,
    matrix: WeightMatrix,
    inputs: _Inputs,
    bias: nn.Parameter | None,
    trial: _BlockOutputs,
    outputs: OutputMetric | None,
) -> Goal:
    weight, metric = matrix.floats(), inputs.metric
    target = inputs.target(weight)

    def keep(encoded: Encoded) -> None:
        block.keep(matrix, encoded)
        if bias is not None:
            shift = inputs.shift(weight, matrix.floats())
            name = f"{matrix.layer.name}.bias"
            stored = matrix.model.weights[name].decode()
            moved = (stored.double() + shift).to(stored.dtype)
            matrix.model.weights[name] = Dense(moved)
            bias.data = moved.to(bias.dtype)

    effect = partial(trial.effect, matrix)
    return Goal(matrix.layer, matrix.encoded.dtype, target, metric, keep, metric.note, effect, outputs)


def _bias(block: CalibrationBlock, matrix: WeightMatrix) -> nn.Parameter | None:
    """The running module's bias, where the model has one of its own for this layer."""
    found = getattr(block.part(matrix), "bias", None)
    return found if isinstance(found, nn.Parameter) and f"{matrix.layer.name}.bias" in matrix.model.weights else None
