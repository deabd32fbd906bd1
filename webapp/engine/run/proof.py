"""The proof that a file is the model: the answers in memory, kept, beside those of a process that loaded the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from webapp.engine.architectures.streaming import answered, runnable
from webapp.engine.data.batches import Batch, every_output, outputs, synthetic
from webapp.engine.exporters.base import Loaded, NativeRuntime
from webapp.engine.facts import ArchitectureSpec
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.weights import Encoded, dtype_name
from webapp.engine.weights.activations import simulate
from webapp.engine.weights.model import Model
from webapp.engine.weights.safetensors import as_bytes, lazy_tensors, write_safetensors

PROBE, HASHES = "probe.safetensors", "hashes.json"
RELATIVE = 1e-4  # of the largest answer: threads may add up in another order
ROUNDING = 2.0  # times what rounding moves: the last bits of layers' answers, activations where a model rounds them


def write_proof(model: Model, folder: Path, seed: int) -> None:
    """Keeps seeded inputs with the answers of the model in memory; without an architecture, a hash of each weight.

    Also how far the last bits of what its layers put out move the answers: two runtimes, which add up in different
    orders, may be that far apart. And of a model that rounds its activations how far that moves the answers: which way
    a value is rounded hangs on its last bit, so that runtimes may be as far apart as either is from answers without it.

    Without `keep` the model has no weights afterwards, which saves their memory.
    """
    if model.architecture is None:
        (folder / HASHES).write_text(json.dumps(_hashes(model)), encoding="utf8")
        return
    spec, batch = model.architecture, synthetic(model.architecture, seed)
    module = runnable(replace(model, activations={}))
    answers, others = _with_other_last_bits(module, spec, batch)
    moved = torch.zeros(len(answers))
    if model.activations:
        unrounded = answers
        simulate(module, model.activations)
        answers = _answers(module, spec, batch)
        moved = _furthest(unrounded, answers)
        _, others = _with_other_last_bits(module, spec, batch)
    last_bits = _furthest(others, answers)
    tensors = {f"input.{name}": t for name, t in batch.inputs.items()} | {"moved": moved, "last_bits": last_bits}
    write_safetensors(folder / PROBE, tensors | {f"output.{place}": t for place, t in enumerate(answers)}, {})


def compare_probe(
    loaded: Loaded, spec: ArchitectureSpec | None, folder: Path, rounded: Model | None = None
) -> dict[str, Any]:
    """How a file, loaded, answers beside what `write_proof` kept in `folder`.

    Of several outputs it tells of the one that lies furthest, for what is allowed of it.

    Where the format rounds the weights, beside the answers of the model that is `rounded` likewise; how far they lie
    from those that were kept is `rounding`.
    """
    if loaded.module is None or spec is None:
        assert loaded.model is not None
        hashes = json.loads((folder / HASHES).read_text(encoding="utf8"))
        same = hashes == _hashes(loaded.model)
        runtime = f"torch {torch.__version__}: every weight compared bit for bit"
        return _proof(loaded.loaded_by, runtime, 0.0 if same else float("inf"), 0.0)
    tensors = {name: tensor.load() for name, tensor in lazy_tensors(folder / PROBE).items()}
    moved, last_bits = tensors.pop("moved"), tensors.pop("last_bits")
    expected = [tensors.pop(f"output.{place}") for place in range(len(moved))]
    batch = Batch({name.removeprefix("input."): t for name, t in tensors.items()}, None, len(expected[0]))
    found = _answers(loaded.module, spec, batch)
    more: dict[str, float] = {}
    if rounded is not None:
        kept, expected = expected, _answers(runnable(rounded), spec, batch)
        more, moved = {"rounding": float(_furthest(kept, expected).max())}, torch.zeros(len(expected))
    broken = sum(int((~t.isfinite()).sum()) for t in expected) / sum(t.numel() for t in expected)
    largest = _largest(found, expected)
    if loaded.in_parts is not None:
        largest = largest.maximum(_largest(_answers(loaded.in_parts, spec, batch), expected))
    sizes = torch.stack([t.nan_to_num(0.0, 0.0, 0.0).abs().max().clamp(min=1e-6) for t in expected])
    tolerance = (RELATIVE * sizes).maximum(ROUNDING * last_bits)
    if loaded.model is None:  # another runtime's arithmetic, which may round the other way
        tolerance = tolerance.maximum(ROUNDING * moved)
    more |= {"not_finite": broken} if broken else {}
    worst = int((largest / tolerance).nan_to_num(1.0, torch.inf).argmax())  # both infinite: as far as is allowed
    return _proof(loaded.loaded_by, loaded.runtime, float(largest[worst]), float(tolerance[worst])) | more


def compare_native(native: NativeRuntime, loaded: Loaded, spec: ArchitectureSpec, folder: Path) -> dict[str, Any]:
    """How the runtime that a file is for answers beside what the file's values give, on the inputs in `folder`.

    Its arithmetic is another, so what is compared is the distribution of the next token, at each place of the texts.
    """
    assert loaded.module is not None
    tensors = lazy_tensors(folder / PROBE)
    inputs = {name.removeprefix("input."): t.load() for name, t in tensors.items() if name.startswith("input.")}
    batch = Batch(inputs, None, len(next(iter(inputs.values()))))
    with torch.inference_mode():
        expected, found = (outputs(module, spec, batch).log_softmax(-1) for module in (loaded.module, native.module))
        if expected.shape != found.shape:
            divergence = float("inf")
        else:
            divergence = float((expected.exp() * (expected - found)).sum(-1).mean())
    proof = _proof("that runtime, a process of its own", native.runtime, max(divergence, 0.0), native.near)
    return proof | {"unit": "nats of mean KL divergence from the file's values", "agreed": divergence <= native.near}


def _largest(found: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
    alike = [t.shape for t in found] == [t.shape for t in expected]
    return _furthest(found, expected) if alike else torch.full((len(expected),), torch.inf)


def _furthest(some: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """The largest difference of each output (outputs,). `some` are overwritten."""
    with torch.inference_mode():
        return torch.stack([_apart(one, other) for one, other in zip(some, others, strict=True)])


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """The largest difference. `one` is overwritten: there may be a hundred thousand answers to each token.

    NaN is NaN's equal and an infinity its own; beside anything else they are infinitely far.
    """
    if bool(one.isfinite().all() & other.isfinite().all()):
        return one.sub_(other).abs_().max()
    alike = (one == other) | (one.isnan() & other.isnan())
    return one.sub_(other).abs_().nan_to_num_(torch.inf, torch.inf).masked_fill_(alike, 0.0).max()


def _proof(loaded_by: str, runtime: str, largest: float, tolerance: float) -> dict[str, Any]:
    agreed = largest <= tolerance  # False for NaN too
    found = {"loaded_by": loaded_by, "runtime": runtime, "max_abs_difference": largest}
    return {**found, "tolerance": tolerance, "agreed": agreed}


def _answers(module: nn.Module, spec: ArchitectureSpec, batch: Batch) -> list[Tensor]:
    """All that a delivered file answers with and that is of floats."""
    from webapp.engine.architectures.program import output_names

    with torch.inference_mode():
        if len(output_names(spec)) > 1:  # one may be another, or an input
            return [answer.clone().contiguous() for answer in every_output(module, spec, batch)]
        return [outputs(module, spec, batch).float().contiguous()]


def _with_other_last_bits(module: nn.Module, spec: ArchitectureSpec, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """The answers, and those where every layer's are off by about their last bit, at random but the same each time."""
    generator = torch.Generator().manual_seed(0)
    is_off = ContextVar("is_off", default=False)  # calls that go through a module side by side have contexts apart

    def off(layer: nn.Module, given: Any, answer: Any) -> Any:
        if not is_off.get() or not isinstance(answer, Tensor) or not answer.is_floating_point():
            return answer
        noise = torch.randn(answer.shape, generator=generator).mul_(torch.finfo(answer.dtype).eps).add_(1)
        return noise.mul_(answer)

    def call(is_it: bool) -> list[Tensor]:
        token = is_off.set(is_it)
        try:
            return _answers(module, spec, batch)
        finally:
            is_off.reset(token)

    hooks = [layer.register_forward_hook(off) for layer in module.modules() if not any(layer.children())]
    try:
        plain, other = answered([partial(call, False), partial(call, True)], module)
        return plain, other
    finally:
        for hook in hooks:
            hook.remove()


def _hashes(model: Model) -> dict[str, str]:
    return {name: _hash(model.weights[name]) for name in sorted(model.weights)}


def _hash(encoded: Encoded) -> str:
    found = hashlib.sha256(f"{encoded.shape} {dtype_name(encoded.value_dtype)} ".encode())
    for some in encoded.slices():
        if some.numel():
            found.update(as_bytes(some))
    return found.hexdigest()
