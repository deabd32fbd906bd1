"""A checkpoint's graph, traced before any run as a run would trace it: what cannot be written is known then.

No value of a weight is read, and of a row of layers that are alike only some are traced, unless those fail.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import onnx_ir as ir
from torch.export import ExportedProgram

from webapp.engine.lazy import nn
from webapp.engine.weights.model import Model

from .model_call import ModelCall
from .trace import Untraceable, converted, program_of, unfilled, whole_call

FEW = 2  # layers of a row that are traced, where they are alike

Found = TypeVar("Found")


class TracingTrial:
    """What tracing the model gives; Untraceable where it cannot be done."""

    def __init__(self, model: Model) -> None:
        assert model.architecture is not None
        self.model, self.spec = model, model.architecture

    @property
    def program(self) -> ExportedProgram | Untraceable:
        return self._traced if isinstance(self._traced, Untraceable) else self._traced[0]

    @cached_property
    def graph(self) -> ir.Model | Untraceable:
        found = self._traced
        return found if isinstance(found, Untraceable) else _or_why(lambda: converted(*found))

    @cached_property
    def _traced(self) -> tuple[ExportedProgram, ModelCall] | Untraceable:
        module = unfilled(self.model)
        gone = make_shallow(module)
        found = _or_why(lambda: self._program(module))
        if isinstance(found, Untraceable) and gone:  # which may be for want of those layers
            return _or_why(lambda: self._program(unfilled(self.model)))
        return found

    def _program(self, module: nn.Module) -> tuple[ExportedProgram, ModelCall]:
        call = whole_call(module, self.spec)
        return program_of(call), call


def make_shallow(module: nn.Module) -> int:
    """Leaves of each row of layers (a ModuleList) the first that show every kind in it, and a second; how many went."""
    gone = 0
    for row in [part for part in module.modules() if isinstance(part, nn.ModuleList)]:
        kinds = [_kind(layer) for layer in row]
        keep = max(FEW, 1 + max((kinds.index(kind) for kind in set(kinds)), default=0))
        gone += max(0, len(row) - keep)
        del row[keep:]
    return gone


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    """What two layers share that differ in nothing but their place: classes, shapes and settings."""
    settings = (
        (name, value)
        for part in layer.modules()
        for name, value in sorted(vars(part).items())
        if isinstance(value, str | int | float) and not name.startswith("_") and name not in ("layer_idx", "layer_id")
    )
    shapes = ((name, type(part).__name__) for name, part in layer.named_modules())
    return (*shapes, *((name, tuple(tensor.shape)) for name, tensor in layer.state_dict().items()), *settings)


def _or_why(work: Callable[[], Found]) -> Found | Untraceable:
    try:
        return work()
    except Untraceable as why:
        return why
