"""The module as a runtime calls it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from webapp.engine.architectures.kv_cache import SO_FAR, WHOLE, past_names, present_name
from webapp.engine.architectures.program import output_names
from webapp.engine.data.batches import Batch
from webapp.engine.facts import ArchitectureSpec

TRACED = 5  # tokens that were read before those of the traced input
TOKENS, MASK = "input_ids", "attention_mask"


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


class Keeping(CalledModule):
    """`given` are the inputs by `names`, and then a key and a value (batch, heads, tokens so far, size) per layer."""

    def forward(self, *given: Tensor) -> Any:
        from transformers import DynamicCache

        inputs, past = given[: len(self.names)], given[len(self.names) :]
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        known = dict(zip(self.names, inputs, strict=True))
        found = self.module(**known, past_key_values=cache, use_cache=True)
        kept = (tensor for layer in found.past_key_values.layers for tensor in (layer.keys, layer.values))
        return found[self.answer], *kept


def keeping(module: Any, spec: ArchitectureSpec, batch: Batch) -> ModelCall | None:
    """What to trace, `batch` being of the first tokens; None for a model that keeps nothing, or something else."""
    if spec.family != "transformers" or spec.told_task != "causal-lm" or list(batch.inputs) != [TOKENS, MASK]:
        return None
    shapes = _kept_shapes(module, batch)
    if not shapes:
        return None
    ids, names = batch.inputs[TOKENS], past_names(len(shapes) // 2)
    mask = ids.new_ones(len(ids), TRACED + ids.shape[1])
    past = [torch.zeros(len(ids), heads, TRACED, size) for heads, size in shapes]
    served = Keeping(module, spec, (TOKENS, MASK))
    axes = [{0: "batch", 1: "sequence"}, {0: "batch", 1: WHOLE}, *({0: "batch", 2: SO_FAR} for _ in names)]
    return ModelCall(
        served,
        {TOKENS: ids, MASK: mask, **dict(zip(names, past, strict=True))},
        axes,
        [served.answer, *map(present_name, names)],
    )


def _kept_shapes(module: Any, batch: Batch) -> list[tuple[int, int]]:
    """(heads, size) of each key and value, in turn; none where what it keeps has no place for each token."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        inputs = {name: mode.from_tensor(tensor) for name, tensor in batch.inputs.items()}
        kept = module(**inputs, use_cache=True).get("past_key_values")
    if type(kept) is not DynamicCache or not all(isinstance(layer, DynamicLayer) for layer in kept.layers):
        return []
    tensors = [tensor for layer in kept.layers for tensor in (layer.keys, layer.values)]
    samples, tokens = batch.inputs[TOKENS].shape
    if any(tensor.dim() != 4 or (len(tensor), tensor.shape[2]) != (samples, tokens) for tensor in tensors):
        return []
    return [(int(tensor.shape[1]), int(tensor.shape[3])) for tensor in tensors]
