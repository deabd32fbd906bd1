"""The module as a runtime calls it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from webapp.engine.architectures.program import output_names
from webapp.engine.facts import ArchitectureSpec


class CalledModule(nn.Module):
    """Tensors in, in the order of `names`, and out what is called `answers`: one tensor, or a list of several."""

    module: Any

    def __init__(self, module: Any, spec: ArchitectureSpec, names: Iterable[str]) -> None:
        super().__init__()
        self.module = module
        self.names = tuple(names)
        self.named = spec.family == "transformers"
        self.extra = {"use_cache": False} if spec.told_task == "causal-lm" else {}
        bare = self.named and module.base_model is module
        self.answer = "last_hidden_state" if bare else "logits"
        self.answers = [self.answer] if self.named else output_names(spec)

    def forward(self, *given: Tensor) -> Any:
        if not self.named:
            return self.module(*given)
        return self.module(**dict(zip(self.names, given, strict=True)), **self.extra)[self.answer]


def with_plain_operators(module: Any) -> None:
    """Chooses what can be traced where transformers has several ways to compute the same."""
    for choose, way in (("set_attn_implementation", "eager"), ("set_experts_implementation", "batched_mm")):
        if hasattr(module, choose):
            getattr(module, choose)(way)


@dataclass(frozen=True)
class ModelCall:
    """What is traced: the call of a module with `inputs`, of which some `axes` are free and get names."""

    served: CalledModule
    inputs: Mapping[str, Tensor]
    axes: Sequence[Mapping[int, str]]  # of each input
    answers: Sequence[str]
