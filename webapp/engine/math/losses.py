"""What training lessens. Every loss is a mean over rows (samples, or tokens), in float32, and differentiable."""

from __future__ import annotations

from webapp.engine.lazy import Tensor, functional

LEAST = 1e-12  # divisors


def soft_targets(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, reverse: bool = False, skew: float = 0.0
) -> Tensor:
    """T² KL(p || q), nats over the last axis, mean over all rows. p is softmax(teacher / T), q softmax(student / T).

    Logits (..., classes) of equal shape. Hinton et al. 2015, section 2, https://arxiv.org/abs/1503.02531: the factor
    T² keeps the gradient's size when T changes. With `skew` a in [0, 1) the second is mixed with the first,
    KL(p || a p + (1 - a) q), which bounds the gradient where q is next to nothing; `reverse` is
    KL(q || (1 - a) p + a q): Ko et al. 2024, section 3.1, https://arxiv.org/abs/2402.03898.
    The gradient is made along with the loss, so that of all intermediate values only it is kept.
    """
    from .soft_targets import SoftTargets

    loss: Tensor = SoftTargets.apply(student, teacher, temperature, reverse, skew)  # type: ignore[no-untyped-call]
    return loss


def hard_labels(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C) and class numbers (B,), in nats."""
    return functional.cross_entropy(logits.float(), targets)


def masks(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy at each place of logits (B, C, ...) and masks (B, ...) of class numbers, -1 where not judged; nats.

    Without a place to judge it is zero.
    """
    logits, targets = logits.float(), targets.long()
    total = functional.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
    return total / (targets >= 0).sum().clamp(min=1)


def squared_error(answers: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of answers and targets (B, ...)."""
    return functional.mse_loss(answers.float(), targets.float())


def next_tokens(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of logits (B, T, V) and token numbers (B, T): position t is judged on token t + 1. Nats."""
    return functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten())


def relative_squares(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of vectors (rows, width), over the teacher's mean square: layers count alike.

    FitNets, equation 3, https://arxiv.org/abs/1412.6550, made free of scale.
    """
    return (student - teacher).square().mean() / teacher.square().mean().clamp(min=LEAST)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine of vectors (rows, width). DistilBERT, section 3, https://arxiv.org/abs/1910.01108."""
    return (1 - functional.cosine_similarity(student, teacher, dim=-1, eps=LEAST)).mean()


def attention_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of attention rows (rows, keys) that add up to one, in nats; masked keys are zero in both.

    MiniLM, equation 2, https://arxiv.org/abs/2002.10957.
    """
    p, q = teacher.clamp(min=LEAST), student.clamp(min=LEAST)
    return (p * (p.log() - q.log())).sum(-1).mean()
