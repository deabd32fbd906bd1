"""What a part of the model tells while batches go through it and back: inputs, gradients, and the squares of those."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.techniques.calibration.backward import BackwardPart
from webapp.engine.techniques.calibration.matrices import columns_of, geometry, gradients_by_place, inputs_as_rows

from .sensitivity import LayerSensitivity, Lookups, MatrixSensitivity, SampleCovariance, some_places

VALUES_AT_ONCE = 1 << 24  # of the patches of a convolution

Known = dict[str, LayerSensitivity]  # by tensor name


def sensitivities(part: BackwardPart, units: Sequence[LayerFacts], tied: Mapping[str, str], seed: int) -> Known:
    """Of every tensor that the part uses, once all batches went through it."""
    watch = _PartWatch(part, units, tied, seed)
    watch.run()
    return watch.found


class _PartWatch:
    def __init__(self, part: BackwardPart, units: Sequence[LayerFacts], tied: Mapping[str, str], seed: int) -> None:
        self.part, self.units, self.tied, self.seed = part, {unit.weight: unit for unit in units}, tied, seed
        self.found: Known = {}
        self.mask: Tensor | None = None
        self.leaders: dict[str, str] = {}  # whose inputs a matrix shares
        self.inputs: dict[str, tuple[SampleCovariance, SampleCovariance]] = {}  # seen by trials, and held back
        self.batch = 0
        self.products: dict[str, MatrixSensitivity] = {}
        self.seen: list[tuple[Tensor, tuple[Any, ...], str]] = []  # the inputs of this batch, and who was given them
        self.taken: set[str] = set()  # parameters whose products or lookups were seen
        self.handles: list[Any] = []

    def run(self) -> None:
        """Raises whatever the passes raise."""
        try:
            self._watch()
            for index, go in enumerate(self.part.passes):
                mask = self.part.masks[index]
                self.mask = None if mask is None or bool(mask.all()) else mask.bool()
                self.batch = index
                self.seen.clear()
                go()
                self._take_squares()
        finally:
            for handle in self.handles:
                handle.remove()
            for parameter in self.part.module.parameters():
                parameter.requires_grad_(False)

    def _watch(self) -> None:
        for matrix in self.part.matrices:
            self._watch_product(matrix.path, matrix.layer, matrix.groups)
        for layer in self.units.values():
            for path in (layer.name, *layer.aliases) if layer.kind == "embedding" else ():
                inner = self._inner(path)
                if isinstance(inner, nn.Embedding):
                    self._watch_lookup(inner, path, layer)
                elif isinstance(inner, nn.Linear):
                    self._watch_product(path, layer, 1)
        for name, parameter in self._parameters():
            there = parameter.is_floating_point() and not parameter.is_meta
            parameter.requires_grad_(there and self._stored(name) in self.units)

    def _inner(self, path: str) -> nn.Module | None:
        if not path.startswith(self.part.prefix):
            return None
        try:
            return self.part.module.get_submodule(path.removeprefix(self.part.prefix))
        except AttributeError:
            return None

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.part.module.named_parameters(remove_duplicate=False):
            yield self.part.prefix + name, parameter

    def _stored(self, name: str) -> str:
        return self.tied.get(name, name)

    def _sensitivity(self, layer: LayerFacts) -> LayerSensitivity:
        return self.found.setdefault(layer.weight, LayerSensitivity(layer.layout))

    def _hook(self, module: nn.Module, hook: Callable[[Tensor, Tensor], Callable[[Tensor], None] | None]) -> None:
        """`hook(input, output)` at every call; what it returns is given the gradient at the output."""

        def forward(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            after = hook(args[0].detach(), output)
            if not output.requires_grad:  # nothing before it is gone back to
                output = output.detach().requires_grad_() * 1
            if after is not None:
                output.register_hook(lambda gradient: after(gradient.detach()))  # type: ignore[no-untyped-call]
            return output

        self.handles.append(module.register_forward_hook(forward))

    def _watch_product(self, path: str, layer: LayerFacts, groups: int) -> None:
        part = self._inner(path)
        if part is None:
            return
        seed = zlib.crc32(f"{self.seed} {path}".encode())

        def hook(x: Tensor, output: Tensor) -> Callable[[Tensor], None]:
            self.taken.add(f"{path}.weight")
            convolves = isinstance(part, nn.modules.conv._ConvNd)
            valid = self.mask if _of_tokens(x, self.mask) and not convolves else None
            if self._leader(path, part, x) == path:
                if path not in self.inputs:
                    columns = columns_of(part)
                    self.inputs[path] = SampleCovariance(groups, columns), SampleCovariance(groups, columns)
                for some in _in_places(part, x, groups):
                    self.inputs[path][self.batch % 2].add_samples(some, valid)
            inputs, held = self.inputs[self.leaders[path]]
            axis = 1 if convolves else -1
            if path not in self.products:
                made = MatrixSensitivity(inputs, held, groups, output.shape[axis] // groups, seed, convolves)
                self.products[path] = made
                self._sensitivity(layer).products.append(made)
            return lambda gradient: self.products[path].add(gradients_by_place(part, gradient, groups), valid)

        self._hook(part, hook)

    def _leader(self, path: str, part: nn.Module, x: Tensor) -> str:
        """The matrix that is given this very tensor too and was first, when the first batch came by."""
        if path not in self.leaders:
            shape = geometry(part)
            same = (who for seen, other, who in self.seen if seen is x and other == shape)
            self.leaders[path] = next(same, path)
            self.seen.append((x, shape, path))
        return self.leaders[path]

    def _watch_lookup(self, part: nn.Embedding, path: str, layer: LayerFacts) -> None:
        lookups = Lookups()

        def hook(ids: Tensor, output: Tensor) -> Callable[[Tensor], None]:
            self.taken.add(f"{path}.weight")
            valid = self.mask if self.mask is not None and ids.shape == self.mask.shape else None
            flat = ids.reshape(len(ids), -1) if ids.dim() > 1 else ids.reshape(1, -1)

            def after(gradient: Tensor) -> None:
                if not lookups.ids:
                    self._sensitivity(layer).lookups.append(lookups)
                lookups.add(flat, gradient.reshape(*flat.shape, -1), valid)

            return after

        self._hook(part, hook)

    def _take_squares(self) -> None:
        """Of the gradients of all parameters whose products are not seen, batch by batch.

        Whether a module is called, or its parent takes the weight (as in Mamba), the first batch tells.
        """
        taken = {id(parameter) for name, parameter in self._parameters() if name in self.taken}
        for name, parameter in self._parameters():
            if id(parameter) in taken:
                parameter.requires_grad_(False)
                parameter.grad = None
            if parameter.grad is None:
                continue
            squares, stored = parameter.grad.square(), self._stored(name)
            known = self._sensitivity(self.units[stored])
            known.squares = squares if known.squares is None else known.squares + squares
            parameter.grad = None


def _of_tokens(x: Tensor, mask: Tensor | None) -> bool:
    return mask is not None and x.dim() > 2 and x.shape[:2] == mask.shape


def _in_places(part: nn.Module, x: Tensor, groups: int) -> Iterator[Tensor]:
    """What the matrix multiplies, as (B, places, groups, columns); of a convolution PLACES of each sample, evenly."""
    if not isinstance(part, nn.modules.conv._ConvNd):
        yield x.reshape(len(x), -1, 1, x.shape[-1]) if x.dim() > 1 else x.reshape(1, 1, 1, -1)
        return
    each = x[0].numel() * part.weight[0, 0].numel()
    for some in torch.split(x, max(1, VALUES_AT_ONCE // max(each, 1))):
        rows = inputs_as_rows(part, some, groups, None).reshape(len(some), -1, groups, columns_of(part))
        yield some_places(rows)
