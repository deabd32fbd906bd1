"""Which linear layers' weights a model reads by itself: of integers, the layer has none for it to read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from webapp.engine.architectures.build import skeleton_of
from webapp.engine.exporters.onnx.model_call import with_plain_operators
from webapp.engine.exporters.onnx.trace import example
from webapp.engine.weights.memory import is_want_of_memory
from webapp.engine.weights.model import Model

log = logging.getLogger(__name__)


def read_by_others(model: Model) -> set[str]:
    """The layers' paths, found by running the model's shapes, and what transformers does before it loads a file."""
    assert model.architecture is not None
    module: Any = skeleton_of(model)
    with_plain_operators(module)
    module.to("meta")
    found: set[str] = set()
    others = []
    for path, part in module.named_modules():
        if type(part) is nn.Linear:
            part.__class__ = WatchedLinear
            vars(part)["told"] = (path, found)
        else:
            others.append(part)
    name, given = next(iter(example(model.architecture).inputs.items()))
    with torch.no_grad():
        for part in others:
            _attempt(module._init_weights, part)
        _attempt(module, **{name: given.to("meta")})
    return found


def _attempt(work: Callable[..., Any], *given: Any, **named: Any) -> None:
    """The library's own code, which may look at values that are not there."""
    try:
        work(*given, **named)
    except Exception as error:
        if is_want_of_memory(error):
            raise
        log.info("A model's shapes do not run without values", exc_info=True)


class WatchedLinear(nn.Linear):
    """Notes its path where its weight is looked up outside of its own product."""

    told: Any
    inside = False

    def forward(self, x: Tensor) -> Tensor:
        self.inside = True
        try:
            return super().forward(x)
        finally:
            self.inside = False

    def __getattr__(self, name: str) -> Any:
        if name == "weight" and not self.inside:
            path, found = self.told
            found.add(path)
        return super().__getattr__(name)
