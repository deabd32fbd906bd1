"""How much memory a sample takes on its way through a model, found with tensors that have shapes and no values."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from webapp.engine.architectures import architectures
from webapp.engine.architectures.resize import resize_to_weights
from webapp.engine.architectures.rows import row_of_blocks
from webapp.engine.facts import CheckpointFacts, PassSize
from webapp.engine.lazy import Tensor, nn, torch

from .batches import Batch, every_output, synthetic

log = logging.getLogger(__name__)


def pass_size(facts: CheckpointFacts) -> PassSize | None:
    """Of a sample of the architecture's own shape; None where the model does not run without values."""
    spec = facts.architecture
    if spec is None:
        return None
    from torch.utils._python_dispatch import TorchDispatchMode

    class AllTrue(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """A model that asks for a value, such as whether anything is padding, is told that it is so."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._local_scalar_dense.default:
                return True if args[0].dtype is torch.bool else 1
            return func(*args, **(kwargs or {}))

    try:
        module = architectures()[spec.family].skeleton(spec).eval()
        resize_to_weights(module, {tensor.name: tensor.shape for tensor in facts.tensors})
        batch = synthetic(spec, 0)
        narrow = torch.bfloat16 if spec.family == "transformers" else torch.float32  # what products of experts take
        module = module.to(narrow)
        given = {n: x.to("meta", narrow if x.is_floating_point() else None) for n, x in batch.inputs.items()}
        one = Batch(given, None, batch.n)
        with AllTrue():  # type: ignore[no-untyped-call]
            return _watched(module, lambda: every_output(module, spec, one), one)
    except Exception:  # of a program that anybody may have written, and of operations that need values
        log.warning("The size of a pass through %s could not be found", spec.title, exc_info=True)
        return None


def _watched(module: nn.Module, run: Callable[[], list[Tensor]], batch: Batch) -> PassSize:
    each, given = list[tuple[int, int]](), [0]

    def passed(_: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        made = _bytes(out)
        each.append((_bytes(args) + made, made))

    def reached(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.append(_bytes((args[:1], kwargs)))

    handles = [part.register_forward_hook(passed) for part in module.modules() if not any(part.children())]
    if row := row_of_blocks(module):
        first = module.get_submodule(f"{row}.0")
        handles.append(first.register_forward_pre_hook(reached, with_kwargs=True))
    try:
        with torch.no_grad():
            answer = _bytes(run())
    finally:
        for handle in handles:
            handle.remove()
    ids = batch.inputs.get("input_ids")
    tokens = 0 if ids is None else ids.shape[1]
    values = next(iter(batch.inputs.values())).numel()
    return PassSize(
        tokens=tokens,
        values=0 if ids is not None else values // batch.n,
        largest_bytes=max((both for both, _ in each), default=answer) // batch.n,
        outputs_bytes=sum(made for _, made in each) // batch.n,
        answer_bytes=answer // batch.n,
        given_bytes=max(given) // batch.n,
        attention_bytes=_attention_bytes(module, tokens, max(given) // batch.n),
    )


def _attention_bytes(module: nn.Module, tokens: int, given_bytes: int) -> int:
    """Of one sample's maps, (heads, tokens, tokens) in each block: from the configuration of a transformers model.

    Of an image's patches a block is given as many as its input has rows of `hidden_size`.
    """
    config = getattr(module, "config", None)
    found = [getattr(config, name, None) for name in ("num_hidden_layers", "num_attention_heads", "hidden_size")]
    layers, heads, width = (size if isinstance(size, int) else 0 for size in found)
    length = tokens or (given_bytes // (4 * width) if width else 0)
    return 4 * layers * heads * length**2


def _bytes(given: Any) -> int:
    """Of all tensors in it, as float32."""
    if isinstance(given, Tensor):
        return 4 * given.numel()
    if isinstance(given, dict):
        return sum(_bytes(value) for value in given.values())
    if isinstance(given, list | tuple):
        return sum(_bytes(value) for value in given)
    return 0
