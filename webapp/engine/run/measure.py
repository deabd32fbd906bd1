"""Quality of a module, by the same code before and after: one pass over the samples, and what it collects of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from webapp.engine.architectures.reshape import describe_model
from webapp.engine.architectures.streaming import answered, streams
from webapp.engine.data.batches import Batch, answers
from webapp.engine.data.targets import counted, distributions, per_place, scores_of_classes, shaped_like
from webapp.engine.facts import BY_NUMBERS, ArchitectureSpec, CheckpointFacts
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.progress import Report
from webapp.engine.weights import DensePlan, StoragePlan
from webapp.engine.weights.artifact import predicted_size
from webapp.engine.weights.model import Model
from webapp.engine.weights.safetensors import read_header

from .metrics import Samples, Scores, shown

Variant = Callable[[], AbstractContextManager[None]]
Watch = Callable[[Batch, list[Tensor], list[Tensor]], None]  # a batch, the original's answers to it, the result's
VALUES_AT_ONCE = 1 << 18  # whose divergence is computed: those of a vocabulary would take several times the answers
MOST_COLUMNS = 100  # targets whose R² is averaged; of more all numbers count together


def evaluate(
    module: nn.Module,
    spec: ArchitectureSpec,
    data: Sequence[Batch],
    report: Report,
    reference: nn.Module | None = None,
    watch: Watch | None = None,
) -> tuple[Scores, dict[str, Any]]:
    """One pass over the evaluation split: scores per metric, and metrics that are not a mean over samples.

    With a `reference` its outputs on the same batches are compared with: agreement and KL divergence of its
    distribution (nats, summed over the classes, averaged over rows), the cosine and rank correlation of embeddings, or
    else the relative error, over all outputs. An answer with NaN or infinity is never right; their share is
    "not_finite", which is there where there are any. `watch` is shown each batch with the answers of both, in the order
    of the samples.
    """
    with torch.inference_mode():
        found = Collected(spec)
        for index, (batch, every, expected) in enumerate(_answers(data, module, reference, spec)):
            found.against_targets(every[0], batch)
            if expected is not None:
                found.against_original(expected, every, batch)
                if watch is not None:
                    watch(batch, expected, every)
            report.progress((index + 1) / len(data), f"Evaluating: batch {index + 1} of {len(data)}")
        return found.finished()


def _answers(
    data: Sequence[Batch], module: nn.Module, reference: nn.Module | None, spec: ArchitectureSpec
) -> Iterator[tuple[Batch, list[Tensor], list[Tensor] | None]]:
    """Each batch with the answers of both; many batches go together through modules that stream their blocks."""

    def answers_of(answering: nn.Module) -> Iterator[tuple[Batch, list[Tensor]]]:
        def call(index: int) -> tuple[Batch, list[Tensor]]:
            batch = data[index]
            return batch, answers(answering, spec, batch)

        return answered([partial(call, index) for index in range(len(data))], answering)

    if reference is None:
        for batch, every in answers_of(module):
            yield batch, every, None
    elif streams(module) or streams(reference):
        for (batch, every), (_, expected) in zip(answers_of(module), answers_of(reference), strict=True):
            yield batch, every, expected
    else:
        for batch in data:
            yield batch, answers(module, spec, batch), answers(reference, spec, batch)


def evaluate_each(
    module: nn.Module,
    reference: nn.Module,
    spec: ArchitectureSpec,
    data: Sequence[Batch],
    report: Report,
    variants: Sequence[Variant],
) -> list[Scores]:
    """The scores of a module as it is, then of each variant of it: what stands while one is entered.

    The `reference` answers each batch once.
    """
    with torch.inference_mode():
        found = [Collected(spec) for _ in range(len(variants) + 1)]
        for index, batch in enumerate(data):
            expected = answers(reference, spec, batch)
            for number, (collected, variant) in enumerate(zip(found, [nullcontext, *variants], strict=True)):
                with variant():
                    every = answers(module, spec, batch)
                collected.against_targets(every[0], batch)
                collected.against_original(expected, every, batch)
                done = (index + (number + 1) / len(found)) / len(data)
                report.progress(
                    done, f"Evaluating: batch {index + 1} of {len(data)}, model {number + 1} of {len(found)}"
                )
        return [collected.summed() for collected in found]


def scores_of_versions(
    spec: ArchitectureSpec, data: Sequence[Batch], versions: int, answers: Iterable[tuple[int, int, list[Tensor]]]
) -> list[Scores]:
    """Of a module and of `versions` of it, each beside the module, of `answers` (batch, version, outputs) as they come:
    of each batch the module's, version 0, first."""
    found = [Collected(spec) for _ in range(versions + 1)]
    expected: list[Tensor] = []
    with torch.no_grad():
        for batch, version, every in answers:
            expected = every if version == 0 else expected
            found[version].against_targets(every[0], data[batch])
            found[version].against_original(expected, every, data[batch])
    return [collected.summed() for collected in found]


@dataclass
class Collected:
    """What is measured of a module's answers, batch by batch."""

    spec: ArchitectureSpec
    scores: Scores = field(default_factory=dict)
    embeddings: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    numbers: list[tuple[Tensor, Tensor]] = field(
        default_factory=list
    )  # targets and squared errors (B, columns, places)
    broken: list[bool] = field(default_factory=list)  # of each sample, whether its answer is no number

    def add(self, metric: str, sums: Iterable[Any], counts: Iterable[Any]) -> None:
        samples = self.scores.setdefault(metric, Samples([], []))
        samples.sums.extend(sums)
        samples.counts.extend(counts)

    def against_targets(self, out: Tensor, batch: Batch) -> None:
        broken = broken_answers(out)
        self.broken += [bool(broken.any())] if batch.choices is not None else broken.tolist()
        targets = batch.targets
        if batch.choices is not None:
            likelihoods = choice_likelihoods(out, batch)
            by_length = likelihoods / torch.tensor(batch.choices.characters)
            for metric, found in (("accuracy", likelihoods), ("accuracy_norm", by_length)):
                chosen = -1 if broken.any() else int(found.argmax())
                self.add(metric, [float(chosen == batch.choices.answer)], [1.0])
        elif self.spec.task == "causal-lm":  # logits (B, T, V): position t is judged on token t + 1
            tokens = batch.inputs["input_ids"]
            nll = token_losses(out, tokens)
            self.add("perplexity", nll.sum(-1).tolist(), [float(nll.shape[1])] * len(tokens))
        elif targets is None:
            return
        elif targets.is_floating_point():
            self.add_errors(out.double(), shaped_like(targets, out).double())
        elif targets.dim() > 1:
            self.add_overlaps(per_place(out, targets), targets)
        else:
            right = ((scores_of_classes(out).argmax(-1) == targets) & ~broken).double()
            self.add("accuracy", right.tolist(), [1.0] * len(right))

    def add_errors(self, out: Tensor, targets: Tensor) -> None:
        squares = (out - targets).square()
        self.add("mse", squares.flatten(1).mean(1).tolist(), [1.0] * len(out))
        self.add("mae", (out - targets).abs().flatten(1).mean(1).tolist(), [1.0] * len(out))
        columns = targets.shape[1] if targets.dim() > 1 and targets.shape[1] <= MOST_COLUMNS else 1
        self.numbers.append((targets.reshape(len(out), columns, -1), squares.reshape(len(out), columns, -1)))

    def add_overlaps(self, out: Tensor, masks: Tensor) -> None:
        """For each sample and class, at how many places answer and mask have it both, and at how many one of them."""
        known, classes = masks >= 0, out.shape[1]
        answer = out.argmax(1).where(out.isfinite().all(1), -1)  # what is no number is of no class
        for row in range(len(out)):
            chosen, wanted = answer[row][known[row]], masks[row][known[row]]
            both, said, there = (
                torch.bincount(found, minlength=classes).double()
                for found in (wanted[chosen == wanted], chosen[chosen >= 0], wanted)
            )
            self.add("mean_iou", [both.tolist()], [(said + there - both).tolist()])

    def against_original(self, expected: list[Tensor], every: list[Tensor], batch: Batch) -> None:
        if batch.choices is not None:
            self.add_choices(expected[0], every[0], batch)
        elif self.spec.task in BY_NUMBERS:
            self.add_relative(expected, every)
        elif self.spec.task == "embedding":
            self.embeddings.append((expected[0], every[0]))
        else:
            self.add_divergence(expected[0], every[0], batch)

    def add_choices(self, expected: Tensor, out: Tensor, batch: Batch) -> None:
        """Whether both choose alike, and the divergence between their distributions over the choices."""
        log_p, log_q = (torch.log_softmax(choice_likelihoods(side, batch), -1) for side in (expected, out))
        self.add("kl_divergence", [float(_divergence(log_p, log_q))], [1.0])
        self.add("agreement", [float(log_p.argmax() == log_q.argmax() and not broken_answers(out).any())], [1.0])

    def add_divergence(self, expected: Tensor, out: Tensor, batch: Batch) -> None:
        expected, out = (distributions(self.spec.task, side) for side in (expected, out))
        same = (expected.argmax(-1) == out.argmax(-1)) & ~_no_number(out)
        rows = max(1, VALUES_AT_ONCE // out.shape[-1])
        some = zip(*(torch.split(side.flatten(0, -2), rows) for side in (expected, out)), strict=True)
        each = [_divergence(torch.log_softmax(p, -1), torch.log_softmax(q, -1)) for p, q in some]
        kl, agree = torch.cat(each).reshape(len(out), -1), same.double().reshape(len(out), -1)
        real = counted(self.spec.task, batch.inputs, out).double()
        counts = real.sum(-1).tolist()
        self.add("kl_divergence", kl.where(real > 0, 0.0).sum(-1).tolist(), counts)
        self.add("agreement", (agree * real).sum(-1).tolist(), counts)

    def add_relative(self, expected: list[Tensor], every: list[Tensor]) -> None:
        """A column for each output that both have: the squared distance, and the square of what it was."""
        rows = [
            ((one.double() - other.double()).square().flatten(1).sum(1), one.double().square().flatten(1).sum(1))
            for one, other in zip(expected, every, strict=False)
        ]
        apart, whole = (torch.stack(side, 1) for side in zip(*rows, strict=True))
        self.add("relative_error", apart.tolist(), whole.tolist())

    def finished(self) -> tuple[Scores, dict[str, Any]]:
        """The scores, and what is no mean over samples."""
        scores = self.summed()
        return scores, _of_embeddings(self) if self.embeddings else {}

    def summed(self) -> Scores:
        if self.numbers:
            self._explain()
        if "relative_error" in self.scores:  # after what the targets tell
            self.scores["relative_error"] = self.scores.pop("relative_error")
        if any(self.broken):
            self.add("not_finite", map(float, self.broken), [1.0] * len(self.broken))
        if self.embeddings:
            expected, out = _directions(self.embeddings)
            self.add("cosine", (expected * out).sum(-1).tolist(), [1.0] * len(out))
        return self.scores

    def _explain(self) -> None:
        """R²: the squared errors over the targets' squared distance from their mean, for each column."""
        targets, squares = (torch.cat(side) for side in zip(*self.numbers, strict=True))
        spread = (targets - targets.mean((0, 2), keepdim=True)).square().sum(-1)
        if bool((spread.sum(0) > 0).any()):
            self.add("r2", squares.sum(-1).tolist(), spread.tolist())


def token_losses(out: Tensor, tokens: Tensor) -> Tensor:
    """(B, T - 1) float64, in nats: of logits (B, T, V) at position t the loss on token t + 1."""
    log_p = torch.log_softmax(out[:, :-1].float(), -1)
    return torch.as_tensor(-log_p.gather(-1, tokens[:, 1:, None])[..., 0].double())


def broken_answers(out: Tensor) -> Tensor:
    """(B,) whether a sample's answer holds NaN or infinity; minus infinity may stand for what a model rules out."""
    flat = out.flatten(1)
    return _no_number(flat) | (flat == -torch.inf).all(1) if _doubtful(flat) else flat.new_zeros(len(flat)).bool()


def _no_number(out: Tensor) -> Tensor:
    """(...,) whether there is NaN or infinity along the last axis."""
    return (out.isnan() | (out == torch.inf)).any(-1) if _doubtful(out) else out.new_zeros(out.shape[:-1]).bool()


def _doubtful(out: Tensor) -> bool:
    """Whether anything may be no finite number: a sum, which is quick, tells where nothing is."""
    return not bool(out.sum().isfinite())


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL over the last axis, in nats; what has no probability adds nothing."""
    p = log_p.exp()
    return (p * (log_p - log_q)).where(log_p > -torch.inf, p).sum(-1).double()


def choice_likelihoods(out: Tensor, batch: Batch) -> Tensor:
    """(choices,) float64: the summed log-likelihood of each choice's own tokens, from logits (choices, T, V)."""
    assert batch.choices is not None
    found = []
    for row, (end, length) in enumerate(zip(batch.choices.ends, batch.choices.lengths, strict=True)):
        own = batch.inputs["input_ids"][row, end - length : end]
        log_p = torch.log_softmax(out[row, end - length - 1 : end - 1].float(), -1)  # position t is judged on t + 1
        found.append(log_p.gather(-1, own[:, None]).double().sum())
    return torch.stack(found)


def _directions(embeddings: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(n, width) float64 of the original's and the module's, each of length one."""
    expected, out = (
        torch.nn.functional.normalize(torch.cat(side).double().flatten(1), dim=-1)
        for side in zip(*embeddings, strict=True)
    )
    return expected, out


def _of_embeddings(found: Collected) -> dict[str, Any]:
    from scipy.stats import spearmanr

    expected, out = _directions(found.embeddings)
    if len(out) < 3 or not bool(out.isfinite().all() and expected.isfinite().all()):
        return {}
    upper = torch.triu_indices(len(out), len(out), 1)
    ranks = spearmanr((out @ out.T)[upper[0], upper[1]].numpy(), (expected @ expected.T)[upper[0], upper[1]].numpy())
    value = float(ranks.statistic)
    return {"spearman": shown("spearman", value, len(out), (value, value))}


def measure_file(path: Path, model: Model, original: CheckpointFacts) -> dict[str, Any]:
    """As `measured_sizes`, of a file whose weights are `model`."""
    _, stored, header = read_header(path)
    sizes = path.stat().st_size, header, sum(tensor.bytes for tensor in stored.values())
    return measured_sizes(sizes, model, original)


def measured_sizes(sizes: tuple[int, int, int], model: Model, original: CheckpointFacts) -> dict[str, Any]:
    """Totals, bytes by tensor and by layer of a model; bits are per original parameter.

    `sizes` are the bytes of its file, of the file's header, and of the tensors in it.
    """
    size, header, tensors_bytes = sizes
    plans = model.weights.plans
    floats = [plan for plan in plans.values() if "float" in plan.dtype]
    total, nonzero = sum(p.params for p in floats), sum(p.nonzero for p in floats)
    now = describe_model(model, original).layers
    layers = [_layer(layer.name, layer.kind, layer.weight, plans[layer.weight]) for layer in now]
    prunable = [plans[layer.weight] for layer in now]
    prunable_size = sum(p.params for p in prunable)
    return {
        "size_bytes": size,
        "params_total": total,
        "params_nonzero": nonzero,
        "params_stored": sum(p.stored for p in floats),
        "params_prunable": prunable_size,
        "sparsity": 1 - nonzero / max(total, 1),
        "prunable_sparsity": 1 - sum(p.nonzero for p in prunable) / max(prunable_size, 1),
        "bits_per_weight": 8 * size / max(original.params_total, 1),
        "layers": layers,
        "bytes": {
            "total": size,
            "file": [
                {"part": "header and manifest", "bytes": header},
                {"part": "tensors", "bytes": tensors_bytes},
            ],
            "tensors": [_tensor(name, plan) for name, plan in sorted(plans.items())],
        },
    }


def _tensor(name: str, plan: StoragePlan) -> dict[str, Any]:
    return {
        "name": name,
        "storage": plan.label,
        "shape": list(plan.shape),
        "parts": [{"name": name + p.name, "dtype": p.dtype, "bytes": p.bytes} for p in plan.parts],
        "bytes": plan.bytes,
        "bits_per_weight": 8 * plan.bytes / max(plan.size, 1),
    }


def _layer(name: str, kind: str, weight: str, plan: StoragePlan) -> dict[str, Any]:
    return {
        "name": name,
        "weight": weight,
        "kind": kind,
        "shape": list(plan.shape),
        "params": plan.params,
        "nonzero": plan.nonzero,
        "stored_bytes": plan.bytes,
        "sparsity": 1 - plan.nonzero / max(plan.params, 1),
        "bits_per_weight": 8 * plan.bytes / max(plan.size, 1),
        "storage": plan.label,
    }


def half_precision_bytes(model: Model) -> int:
    """The file's size if every float that is still wide were float16: what a plain cast gives, put aside."""
    plans = {name: plan.mapped(_halved) for name, plan in model.weights.plans.items()}
    return predicted_size(plans, model.tied, model.architecture, model.activations)[1]


def _halved(plan: StoragePlan) -> StoragePlan:
    wide = isinstance(plan, DensePlan) and plan.dtype in ("float32", "float64")
    return replace(plan, dtype="float16") if wide else plan
