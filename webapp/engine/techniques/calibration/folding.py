"""Scales that move from a layer's inputs into whatever makes those inputs, so that the block answers as before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.weights import Dense, Encoded
from webapp.engine.weights.model import Model

from . import CalibrationBlock, WeightMatrix

TOLERANCE = 1e-4  # of the block's answer, in float32; coarser dtypes round what is folded
MOST_TRIED = 2  # layers before one, from the nearest on


@dataclass(frozen=True)
class Producer:
    """What makes an input: a normalisation (then `matrix` is None), or another layer whose outputs become it.

    `vectors` maps the names of the module's own vectors, one value for each output, to those of the stored tensors.
    """

    path: str  # of the module
    vectors: dict[str, str]
    matrix: WeightMatrix | None = None


def producers(block: CalibrationBlock) -> list[tuple[list[WeightMatrix], list[Producer]]]:
    """Slots of plain layers that read the same input, with what may take their scales, likeliest first.

    A normalisation makes an input if it puts out that very tensor; of other layers those are named that run before
    and have as many outputs. Whether folding holds is told by `fold`.
    """
    outputs: dict[int, str] = {}
    kept: list[Tensor] = []

    def watch(path: str) -> Callable[..., None]:
        def after(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            kept.append(output)  # alive, so that its id stays its own
            outputs[id(output)] = path

        return after

    norms = [(name, part) for name, part in block.module.named_modules() if _is_norm(part)]
    handles = [part.register_forward_hook(watch(block.prefix + name)) for name, part in norms]
    try:
        seen = block.inputs(block.matrices, 0)
    finally:
        for handle in handles:
            handle.remove()
    order = [matrix for matrix, _ in seen]
    found: dict[int, list[WeightMatrix]] = {}
    for matrix, x in seen:
        found.setdefault(id(x), []).append(matrix)
    result = []
    for source, matrices in found.items():
        if all(isinstance(block.part(matrix), nn.Linear) or matrix.layout.transposed for matrix in matrices):
            norm = outputs.get(source)
            if norm is not None:
                before = [Producer(norm, _vectors(block, norm, norm, ("weight", "bias")))]
            else:
                width, first = matrices[0].floats().shape[1], order.index(matrices[0])
                earlier = [matrix for matrix in reversed(order[:first]) if matrix.floats().shape[0] == width]
                before = [
                    Producer(matrix.path, _vectors(block, matrix.path, matrix.layer.name, ("bias",)), matrix)
                    for matrix in earlier[:MOST_TRIED]
                ]
            result.append((matrices, before))
    return result


def fold(block: CalibrationBlock, producer: Producer, matrices: Sequence[WeightMatrix], scales: Tensor) -> bool:
    """Multiplies the inputs by `scales` (columns,) and divides the producer's outputs, if that changes nothing.

    What the block answers is compared; where it changes, everything is put back.
    """
    model = matrices[0].model
    before = block.outputs(0)
    changed = [*matrices, *([producer.matrix] if producer.matrix else [])]
    names = {*producer.vectors.values(), *(matrix.layer.weight for matrix in changed)}
    if not before.numel() or not names <= set(model.weights) - set(model.tied.values()):
        return False
    old = {name: model.weights[name] for name in names}
    for matrix in matrices:
        block.keep(matrix, _dense(matrix, matrix.floats() * scales))
    _divide(block, producer, model, scales)
    after, size = block.outputs(0), before.norm().clamp(min=1e-12)
    tolerance = max(TOLERANCE, 4 * max(torch.finfo(old[name].dtype).eps for name in old))
    if float((after - before).norm() / size) <= tolerance:
        return True
    model.weights.update(old)
    for matrix in changed:
        block.keep(matrix, matrix.encoded)
    _show(block, producer, model)
    return False


def _is_norm(part: nn.Module) -> bool:
    weight = getattr(part, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.dim() == 1 and not list(part.children())


def _dense(matrix: WeightMatrix, values: Tensor) -> Encoded:
    return Dense(matrix.shaped(values), zeros_wanted=matrix.encoded.plan.pruned)


def _vectors(block: CalibrationBlock, path: str, stored: str, names: Sequence[str]) -> dict[str, str]:
    part = block.module.get_submodule(path.removeprefix(block.prefix))
    return {name: f"{stored}.{name}" for name in names if isinstance(getattr(part, name, None), nn.Parameter)}


def _divide(block: CalibrationBlock, producer: Producer, model: Model, scales: Tensor) -> None:
    if producer.matrix is not None:
        block.keep(producer.matrix, _dense(producer.matrix, producer.matrix.floats() / scales[:, None]))
    for name in producer.vectors.values():
        old = model.weights[name]
        divided = (old.decode().float() / scales).to(old.dtype)
        model.weights[name] = Dense(divided, zeros_wanted=old.plan.pruned)
    _show(block, producer, model)


def _show(block: CalibrationBlock, producer: Producer, model: Model) -> None:
    """The vectors as the model holds them now, in the running module too."""
    part = block.module.get_submodule(producer.path.removeprefix(block.prefix))
    for own, stored in producer.vectors.items():
        vector = part.get_parameter(own)
        vector.data = model.weights[stored].decode().to(vector.dtype)
