"""What dynamic and static quantization share: 8-bit weights for integer kernels, and which layers keep float inputs.

A layer whose answer would change too much when its inputs are rounded keeps them as floats, and only its weights
become integers. That is measured, layer by layer, on what the model itself puts through.
"""

from __future__ import annotations

import math
import platform
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from webapp.engine.data.batches import Batch
from webapp.engine.data.memory import ModelMemory
from webapp.engine.facts import PLAIN, LayerFacts, Layout
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math.grids import QuantizationScheme
from webapp.engine.math.quantizers import Grid, quantize, stored_scale
from webapp.engine.recipe import StepSettings, TechniqueSettings, setting
from webapp.engine.techniques.calibration.block_by_block import UNREACHED, joined
from webapp.engine.weights import Dense, DensePlan, Encoded, Quantized, QuantizedPlan, StoragePlan
from webapp.engine.weights.activations import Activations, simulate
from webapp.engine.weights.model import Model
from webapp.units import percent

from .base import AtWork, Context, Outcome, Technique, calibration_samples
from .calibration import CalibrationBlock, KeptBlocks, WeightMatrix, calibration_blocks

ROWS = 2048  # inputs that a layer's change is measured on
EIGHT_BITS = QuantizationScheme(8)  # one scale for each output
FULL, REDUCED = 127, 63  # the largest weight in integers, of 8 bits and of 7
NO_KERNEL = "there are no integer kernels for transposed convolutions"
SECOND_TIME = "its inputs are rounded by an earlier step already"


@cache
def instructions() -> frozenset[str]:
    """The names of its instruction sets, as the system tells them: "avx2", "avx512_vnni"; none where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def saturates() -> bool:
    """Whether two products of unsigned and signed 8 bits may overflow the 16 bits that they are added in.

    So do x86 processors without VNNI (vpmaddubsw); weights of 7 bits cannot make them.
    """
    known = instructions()
    return platform.machine() in ("x86_64", "AMD64") and not {"avx512_vnni", "avx_vnni"} & known


class IntegerSettings(TechniqueSettings):
    most_change: float = setting(
        0.1,
        "Outlier threshold",
        "A layer whose output changes by more than this share when its inputs are rounded keeps float inputs; "
        "its weights become integers all the same. 1 rounds every layer's inputs.",
        step=0.01,
        per_layer=True,
        gt=0.0,
        le=1.0,
    )
    reduce_range: Literal["auto", "on", "off"] = setting(
        "auto",
        "Reduced range (7-bit weights)",
        "Processors without VNNI add products of 8 bits in 16, which overflow; weights of 7 bits cannot. "
        "auto: where this machine's processor is of that kind.",
    )
    samples: int = calibration_samples()

    @property
    def top(self) -> int:
        return REDUCED if self.reduce_range == "on" or (self.reduce_range == "auto" and saturates()) else FULL


class IntegerProducts(Technique):
    """Walks the model block by block; what is rounded in one layer is seen by the next."""

    def refuses(self, plan: StoragePlan) -> str | None:
        for leaf in plan.leaves:
            if not _suits(leaf):
                return (
                    f"its weights are {leaf.holds}, and not of the kind that integer kernels multiply: 8 bits with one "
                    "scale for each output and none for groups"
                )
        return None

    def exact(self, settings: Any) -> bool:
        return False  # the manifest says how each layer's inputs are rounded, which is found out on the way

    def plan(self, layer: LayerFacts, plan: StoragePlan, settings: Any) -> StoragePlan:
        def rounded(leaf: StoragePlan) -> StoragePlan:
            return leaf if isinstance(leaf, QuantizedPlan) else QuantizedPlan.of(leaf, EIGHT_BITS, layer.layout)

        return plan.mapped(rounded)

    def kept_bytes(self, at: AtWork, after: ModelMemory, file_bytes: int) -> int:
        return at.kept(file_bytes)

    def apply(self, model: Model, settings: StepSettings, context: Context) -> list[Outcome]:
        found: dict[str, list[Outcome]] = {layer.name: [] for layer in context.layers}
        for layer in context.layers:
            if layer.kind == "embedding":
                found[layer.name].append(self._looked_up(model, layer, settings.of(layer)))
        if any(layer.kind != "embedding" for layer in context.layers):
            kept = KeptBlocks(context.scratch, model, found)
            data = self.data(settings.own, context)
            for block in calibration_blocks(model, context.layers, data, context.report, self.title, kept=kept):
                plans, inputs = self.observed(block, settings), dict(_inputs(block))
                for matrix in block.matrices:
                    own = settings.of(matrix.layer)
                    outcome = self._layer(block, matrix, plans.get(matrix.path), inputs.get(matrix.path), own)
                    found[matrix.layer.name].append(outcome)
        return [
            joined(parts) if parts else self._left(layer.name, settings.of(layer), UNREACHED)
            for layer in context.layers
            for parts in (found[layer.name],)
        ]

    @abstractmethod
    def data(self, settings: Any, context: Context) -> list[Batch]:
        """What goes through the model to see its activations."""

    @abstractmethod
    def observed(self, block: CalibrationBlock, settings: StepSettings) -> Mapping[str, Activations]:
        """How the inputs of the block's matrices, by their paths, are to be rounded."""

    @abstractmethod
    def asked(self, settings: Any) -> str: ...

    def kept(
        self,
        block: CalibrationBlock,
        matrix: WeightMatrix,
        before: Encoded,
        plan: Activations,
        x: Tensor,
        settings: Any,
    ) -> None:
        """Called when a layer's weights and inputs have become integers: `before` is the weight as it was."""
        return None

    def _layer(
        self, block: CalibrationBlock, matrix: WeightMatrix, plan: Activations | None, x: Tensor | None, settings: Any
    ) -> Outcome:
        name, before, asked = matrix.layer.name, matrix.encoded, self.asked(settings)
        if matrix.path in matrix.model.activations:
            return self._left(name, settings, SECOND_TIME)
        with torch.no_grad():
            block.keep(matrix, integers(before, matrix.layout, settings.top))
            if matrix.layer.kind == "conv" and matrix.layout.transposed:
                return self._floats(name, settings, NO_KERNEL)
            if plan is None or x is None:
                return self._floats(name, settings, UNREACHED)
            change = _change(block.part(matrix), plan, x)
            if not change <= settings.most_change:  # NaN too
                most = percent(settings.most_change, 0)
                told = f"changes its output by {percent(change)}, more than the {most} that is allowed"
                if math.isnan(change):
                    told = "cannot be judged: its inputs or outputs held NaN or infinity"
                return self._floats(name, settings, f"rounding its inputs {told}")
            matrix.model.activations[matrix.path] = plan
            simulate(block.module, {matrix.path.removeprefix(block.prefix): _relative(plan, block.prefix)})
            self.kept(block, matrix, before, plan, x, settings)
        note = "" if settings.top == FULL else "weights of 7 bits, which processors without VNNI add up correctly"
        return Outcome(name, asked, f"{asked}; its output changes by {percent(change)}", note=note)

    def _floats(self, name: str, settings: Any, why: str) -> Outcome:
        return Outcome(name, self.asked(settings), "int8 weights, float inputs", ok=False, note=why)

    def _left(self, name: str, settings: Any, why: str) -> Outcome:
        return Outcome.left(name, self.asked(settings), why)

    def _looked_up(self, model: Model, layer: LayerFacts, settings: Any) -> Outcome:
        with torch.no_grad():
            changed = model.weights[layer.weight].mapped(lambda leaf: integers(leaf, PLAIN, settings.top))
        model.weights[layer.weight] = changed
        shared = f"; {' and '.join(layer.aliases)}, which shares it, multiplies floats" if layer.aliases else ""
        return Outcome(layer.name, "int8 rows", "int8 rows", note=f"looked up, not multiplied{shared}")


def integers(weight: Encoded, layout: Layout, top: int) -> Encoded:
    """The weight as integers from -top to top with a positive scale for each output; what is so already stays."""
    if isinstance(weight, Quantized):
        return weight
    assert isinstance(weight, Dense)
    values = weight.decode()
    matrix = layout.matrix(values).float()
    scale = stored_scale(matrix.abs().amax(1, keepdim=True) / top)
    grid = Grid(8, 0, scale)
    codes = quantize(matrix, grid).clamp(128 - top, 128 + top)
    return Quantized(codes, grid, tuple(values.shape), values.dtype, layout, weight.plan.pruned)


def _change(part: torch.nn.Module, plan: Activations, x: Tensor) -> float:
    """By which share of its size the layer's output changes when its inputs are rounded."""
    x = x[: max(1, ROWS * len(x) // max(1, x[..., 0].numel()))] if x.dim() > 1 else x
    clean = part(x)
    return float((part(plan.rounded(x)) - clean).norm() / clean.norm().clamp(min=1e-12))


def _inputs(block: CalibrationBlock) -> Iterator[tuple[str, Tensor]]:
    """What each matrix of the block is given for the first batch."""
    return ((matrix.path, x) for matrix, x in block.inputs(block.matrices, 0))


def _relative(plan: Activations, prefix: str) -> Activations:
    """The plan as the block's own module knows its parts."""
    if plan.result_at is None:
        return plan
    return plan.model_copy(update={"result_at": plan.result_at.removeprefix(prefix)})


def _suits(plan: StoragePlan) -> bool:
    if not isinstance(plan, QuantizedPlan):
        return isinstance(plan, DensePlan)
    return plan.bits == 8 and not plan.group and plan.symmetric and not plan.codebook
