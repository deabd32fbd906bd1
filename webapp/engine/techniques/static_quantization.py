"""8-bit weights times activations rounded to ranges that calibration found: integer arithmetic with nothing to find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from webapp.engine.data.batches import Batch
from webapp.engine.lazy import Tensor, torch
from webapp.engine.recipe import StepSettings, setting
from webapp.engine.techniques.calibration.activations import Histogram, Method
from webapp.engine.techniques.calibration.matrices import inputs_as_rows
from webapp.engine.weights import Dense, Encoded
from webapp.engine.weights.activations import Activations

from .base import Context
from .calibration import CalibrationBlock, WeightMatrix
from .integer_products import IntegerProducts, IntegerSettings

TEXTS = 32  # show the ranges of a transformer as well as more of them do


class StaticQuantization(IntegerProducts):
    name = "static_quantization"
    title = "Static quantization"
    family = "Quantization"
    summary = (
        "Stores weights as 8-bit integers and rounds activations to ranges found on calibration data, so that "
        "onnxruntime multiplies integers; the quickest form for convolutions, at the cost of outliers."
    )
    paper = "https://arxiv.org/abs/2004.09602"
    needs = frozenset({"calibration", "architecture"})
    layers = frozenset({"linear", "conv", "embedding"})

    class Settings(IntegerSettings):
        method: Method = setting(
            "minmax",
            "Calibration method",
            "minmax: from the least to the largest value that was seen. percentile: all but the rarest. entropy: "
            "where the rounded distribution diverges least (KL). error: where rounding and clipping cost least (MSE).",
            per_layer=True,
        )
        percentile: float = setting(
            99.999,
            "Percentile",
            "Values that lie within the range.",
            unit="%",
            step=0.001,
            show_when={"method": "percentile"},
            per_layer=True,
            gt=90.0,
            le=100.0,
        )
        bias_correction: bool = setting(
            True,
            "Bias correction",
            "Moves each layer's bias by what rounding changes its mean output.",
            per_layer=True,
        )

    def data(self, settings: Any, context: Context) -> list[Batch]:
        assert context.facts is not None
        assert context.facts.architecture is not None
        few = TEXTS if "vocab" in context.facts.architecture.inputs else 0
        return context.calibration(settings.samples or few)

    def asked(self, settings: Any) -> str:
        return f"int8 weights, 8-bit inputs, ranges by {settings.method}"

    def observed(self, block: CalibrationBlock, settings: StepSettings) -> Mapping[str, Activations]:
        from webapp.engine.techniques.calibration.followers import followers

        own = {matrix.path: settings.of(matrix.layer) for matrix in block.matrices}
        convolutions = [
            matrix.path.removeprefix(block.prefix) for matrix in block.matrices if matrix.layer.kind == "conv"
        ]
        after = followers(block.module, convolutions, block.runs[0]) if convolutions else {}
        inputs = {path: Histogram(asked.method != "minmax") for path, asked in own.items()}
        results = {path: Histogram(own[block.prefix + path].method != "minmax") for path in after}
        now = [0]

        def into(seen: Histogram) -> Any:
            return lambda _, given: seen.add(_kept(given[0], block.masks[now[0]]))

        handles = [block.part(matrix).register_forward_pre_hook(into(inputs[matrix.path])) for matrix in block.matrices]
        handles += [
            block.module.get_submodule(after[path].at).register_forward_hook(lambda _, __, y, seen=seen: seen.add(y))
            for path, seen in results.items()
        ]
        for now[0] in range(len(block.runs)):
            block.outputs(now[0])
        for handle in handles:
            handle.remove()

        def plan(path: str) -> Activations:
            method, percentile = own[path].method, own[path].percentile
            found = Activations(by="calibration", input=inputs[path].range(method, percentile))
            within = path.removeprefix(block.prefix)
            if within not in after:
                return found
            result = results[within].range(method, percentile, after[within].clipped)
            return found.model_copy(update={"result": result, "result_at": block.prefix + after[within].at})

        return {path: plan(path) for path, seen in inputs.items() if seen.seen}

    def kept(
        self,
        block: CalibrationBlock,
        matrix: WeightMatrix,
        before: Encoded,
        plan: Activations,
        x: Tensor,
        settings: Any,
    ) -> None:
        """Corrects the bias by what the layer put out less what it puts out now, in the mean over some samples."""
        if not settings.bias_correction or matrix.side:
            return
        assert plan.input is not None
        part, mask = block.part(matrix), block.masks[0]
        clean, rounded = (
            inputs_as_rows(part, given, matrix.groups, mask).mean(0) for given in (x, plan.input.rounded(x))
        )
        was = matrix.layout.matrix(before.decode().float())
        _shift(block, matrix, _times(was, clean) - _times(matrix.floats(), rounded), plan)


def _times(matrix: Tensor, mean: Tensor) -> Tensor:
    """(out, columns), (groups, columns) -> (out,): each group of outputs by its own inputs."""
    rows = matrix.reshape(len(mean), -1, matrix.shape[1])
    return torch.einsum("gor,gr->go", rows, mean).flatten()


def _shift(block: CalibrationBlock, matrix: WeightMatrix, moved: Tensor, plan: Activations) -> None:
    """Adds to the layer's bias; without one, takes from the mean that the normalisation after it subtracts."""
    targets = [(f"{matrix.path}.bias", 1.0)]
    if plan.result_at is not None and plan.result_at != matrix.path:
        targets.append((f"{plan.result_at}.running_mean", -1.0))
    for name, sign in targets:
        stored = matrix.model.weights.get(name)
        if isinstance(stored, Dense):
            changed = (stored.decode().float() + sign * moved).to(stored.dtype)
            matrix.model.weights[name] = Dense(changed)
            own = {name.removeprefix(block.prefix): changed.float()}
            block.module.load_state_dict(own, strict=False, assign=True)
            return


def _kept(x: Tensor, mask: Tensor | None) -> Tensor:
    """Without what padding left behind."""
    return x[mask.bool()] if mask is not None and x.dim() > 2 and x.shape[: mask.dim()] == mask.shape else x
