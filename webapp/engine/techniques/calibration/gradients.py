"""What a change of a matrix's outputs costs: the covariance G of the gradients there, of the drawn loss.

A change ΔW costs about ½ tr(G ΔW H ΔWᵀ) in the unit of the receipt (nats, cosine distance, squared error), of G and the
inputs' covariance H, both of the model as the step begins (K-FAC; Martens & Grosse 2015,
https://arxiv.org/abs/1503.05671; at many places of a sample "expand" of https://arxiv.org/abs/2311.00636). One pass
forward and backward, block by block: of each part `learn` keeps what a technique needs, in the scratch folder.

Gradients have heavy tails, and those at the places of a sample are alike, so there are fewer than it seems: G is drawn
towards a multiple of the identity as far as it differs from batch to batch (Ledoit & Wolf 2004,
https://doi.org/10.1016/S0047-259X(03)00096-4, with batches for observations).
"""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from webapp.engine.data.batches import Batch
from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.progress import Report
from webapp.engine.weights.model import Model
from webapp.engine.weights.safetensors import lazy_tensors, write_safetensors

from .backward import BackwardPart, backward_parts
from .drawn_loss import AnswersNotFinite, DrawnLoss
from .matrices import WeightMatrix, columns_of, geometry, gradients_by_place, inputs_as_rows
from .statistics import Covariance

WIDEST = 4096  # outputs whose covariance is kept whole; of wider ones its diagonal
AT_ONCE = 1 << 26  # values of covariances, of a model that can be gone through several times
PATCHES = 1 << 24  # values of a convolution's inputs
DONE = "learned.json"
COUNT = "/count"  # of the drawn loss, by what it is divided
NO_PATH = ("require grad", "derivative", "inference tensor")  # what torch says where there is none


@dataclass(frozen=True)
class MatrixGradients:
    """Of a matrix: G, drawn towards the identity, as `gradients` (groups, outputs, outputs), float32, or of more than
    WIDEST outputs its diagonal (groups, outputs); and its `inputs`, which those that read the same share."""

    matrix: WeightMatrix
    gradients: Tensor
    inputs: Covariance


Learn = Callable[[MatrixGradients], Mapping[str, Tensor]]


class Learned:
    """What was learned of each matrix, by its path; read from the disk when it is asked for."""

    def __init__(self, folder: Path, parts: int, temporary: bool) -> None:
        if temporary:
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._tensors: dict[str, dict[str, Any]] = {}
        for number in range(parts):
            for name, tensor in lazy_tensors(_part(folder, number)).items():
                path, _, key = name.rpartition("/")
                self._tensors.setdefault(path, {})[key] = tensor

    def of(self, path: str) -> dict[str, Tensor]:
        """Nothing where no gradient reached the matrix."""
        return {key: tensor.load() for key, tensor in self._tensors.get(path, {}).items()}

    def get(self, path: str, key: str) -> Tensor | None:
        found = self._tensors.get(path, {}).get(key)
        return None if found is None else found.load()


def learned(
    model: Model,
    layers: Sequence[LayerFacts],
    data: Sequence[Batch],
    seed: int,
    scratch: Path | None,
    report: Report,
    learn: Learn,
) -> Learned | None:
    """What `learn` made of each matrix of these layers.

    None where the model cannot be gone back through, or answers with NaN. Matrices that no gradient reached are not
    asked about; factors of a layer are matrices of their own, like the sides of `WeightMatrix`. A process that is
    killed goes on from the part that it was at.
    """
    folder = Path(mkdtemp()) if scratch is None else scratch / "gradients"
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / DONE
    if done.exists():
        return Learned(folder, json.loads(done.read_text(encoding="utf8"))["parts"], False)
    assert model.architecture is not None
    loss = DrawnLoss(model.architecture, data, seed)
    parts = 0
    try:
        for part in backward_parts(model, layers, data, loss, folder, report):
            report.progress(0.5 + 0.5 * part.number / part.total, f"Gradients: {part.name or 'the model'}")
            _learn(part, loss, folder, learn)
            parts = part.total
    except (AnswersNotFinite, RuntimeError) as error:
        if scratch is None:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, AnswersNotFinite) or any(words in str(error) for words in NO_PATH):
            return None
        raise
    unfinished = done.with_suffix(".unfinished")
    unfinished.write_text(json.dumps({"parts": parts}), encoding="utf8")
    unfinished.replace(done)
    for path in folder.glob("*.pt"):
        path.unlink()
    return Learned(folder, parts, temporary=scratch is None)


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number}.safetensors"


def _learn(part: BackwardPart, loss: DrawnLoss, folder: Path, learn: Learn) -> None:
    found: dict[str, Tensor] = {}
    for matrices in _together(part):
        watch = _GradientWatch(part, matrices)
        with watch.watching():
            for index, go in enumerate(part.passes):
                watch.begin(part.masks[index])
                go()
        # known once the last part of the model, which is the first here, was gone through
        count = float(lazy_tensors(_part(folder, 0))[COUNT].load()) if part.number else loss.count
        with torch.no_grad():
            for one in watch.found(count):
                made = learn(one)
                found |= {f"{one.matrix.path}/{key}": tensor.contiguous() for key, tensor in made.items()}
    unfinished = _part(folder, part.number).with_suffix(".unfinished")
    write_safetensors(unfinished, found | {COUNT: torch.tensor(loss.count, dtype=torch.float64)})
    unfinished.replace(_part(folder, part.number))


def _together(part: BackwardPart) -> Iterator[list[WeightMatrix]]:
    """All of a block; of a model that is one part as many as fit, for it can be gone through again."""
    if part.total > 1:
        yield part.matrices
        return
    batch: list[WeightMatrix] = []
    held = 0
    for matrix in part.matrices:
        values = columns_of(part.module.get_submodule(matrix.path)) ** 2 * matrix.groups
        if batch and held + values > AT_ONCE:
            yield batch
            batch, held = [], 0
        batch.append(matrix)
        held += values
    yield batch


class _GradientWatch:
    """These matrices' inputs, and the gradients at their outputs, while batches go by."""

    def __init__(self, part: BackwardPart, matrices: Sequence[WeightMatrix]) -> None:
        self.part, self.matrices = part, matrices
        self.mask: Tensor | None = None
        self.inputs: dict[str, Covariance] = {}  # by the path of the first that is given them
        self.sums: dict[str, _Batches] = {}
        self.first: dict[str, str] = {}
        self.seen: list[tuple[Tensor, tuple[Any, ...], str]] = []  # of this batch: inputs, and who was given them

    def begin(self, mask: Tensor | None) -> None:
        self.mask = None if mask is None or bool(mask.all()) else mask.bool()
        self.seen.clear()

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [self._hooked(matrix) for matrix in self.matrices]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def found(self, count: float) -> Iterator[MatrixGradients]:
        """G is summed over the places and divided by `count`, the drawn loss's."""
        for matrix in self.matrices:
            sums, inputs = self.sums.pop(matrix.path, None), self.inputs.get(self.first.get(matrix.path, ""))
            if sums is not None and inputs is not None and sums.usable:
                yield MatrixGradients(matrix, sums.shrunk() / count, inputs)

    def _hooked(self, matrix: WeightMatrix) -> Any:
        module = self.part.module.get_submodule(matrix.path.removeprefix(self.part.prefix))

        def forward(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            with torch.no_grad():
                self._take_inputs(matrix, module, args[0].detach())
            if not output.requires_grad:  # nothing before it is gone back to
                output = output.detach().requires_grad_() * 1
            output.register_hook(lambda gradient: self._take(matrix, module, gradient.detach()))  # type: ignore[no-untyped-call]
            return output

        return module.register_forward_hook(forward)

    def _take_inputs(self, matrix: WeightMatrix, module: nn.Module, x: Tensor) -> None:
        path, shape = matrix.path, geometry(module)
        if path not in self.first:
            self.first[path] = next((who for seen, other, who in self.seen if seen is x and other == shape), path)
        self.seen.append((x, shape, path))
        if self.first[path] != path:
            return
        if path not in self.inputs:
            self.inputs[path] = Covariance(matrix.groups, columns_of(module))
        at_once = len(x)
        if isinstance(module, nn.modules.conv._ConvNd):
            at_once = max(1, PATCHES // max(1, x[0].numel() * module.weight[0, 0].numel()))
        for some in torch.split(x, at_once) if at_once < len(x) else (x,):
            self.inputs[path].add(inputs_as_rows(module, some, matrix.groups, self.mask))

    def _take(self, matrix: WeightMatrix, module: nn.Module, gradient: Tensor) -> None:
        rows = gradients_by_place(module, gradient, matrix.groups)
        if self.mask is not None and rows.shape[:2] == self.mask.shape:
            rows = rows[self.mask]
        rows = rows.reshape(-1, *rows.shape[-2:]).float()
        groups, outputs = rows.shape[1:]
        if outputs > WIDEST:
            found = rows.square().sum(0)
        else:
            found = torch.stack([rows[:, group].t() @ rows[:, group] for group in range(groups)])
        self.sums.setdefault(matrix.path, _Batches()).add(found)


class _Batches:
    """The sum of a covariance (groups, n, n), or its diagonal (groups, n), over batches, and how far they differ."""

    def __init__(self) -> None:
        self.count, self.total = 0, torch.empty(0)
        self.squares = torch.empty(0)  # (groups,): of all values of a batch's, summed over the batches

    def add(self, found: Tensor) -> None:
        squares = found.flatten(1).square().sum(1)
        if self.count:
            self.total += found
            self.squares += squares
        else:
            self.total, self.squares = found, squares
        self.count += 1

    @property
    def usable(self) -> bool:
        return bool(self.total.isfinite().all()) and bool(self.total.any())

    def shrunk(self) -> Tensor:
        """The sum, each group's drawn towards a multiple of the identity by what the sum is off by chance."""
        total = self.total
        diagonal = total if total.dim() == 2 else total.diagonal(dim1=1, dim2=2)
        level = diagonal.mean(1)
        squares = total.flatten(1).square().sum(1)
        apart = squares - diagonal.shape[1] * level.square()  # |S - level I|^2
        chance = (self.squares - squares / self.count) * self.count / max(self.count - 1, 1)
        share = (chance / apart.clamp(min=1e-30)).clamp(0, 1)
        share = share.view(-1, *[1] * (total.dim() - 1))
        found = total * (1 - share)
        (found if total.dim() == 2 else found.diagonal(dim1=1, dim2=2)).add_(share.view(-1, 1) * level[:, None])
        return found
