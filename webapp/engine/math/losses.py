"""What training lessens. Every loss is a mean over rows (samples, or tokens), in float32, and differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS_AT_ONCE = 128  # of a vocabulary's width: what is held beside the logits and their gradient
LEAST = 1e-12  # divisors


def soft_targets(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T² KL(softmax(teacher / T) || softmax(student / T)), nats summed over the last axis, mean over all rows.

    Logits (..., classes) of equal shape. Hinton et al. 2015, section 2, https://arxiv.org/abs/1503.02531: the factor
    T² keeps the gradient's size when T changes. The gradient T (softmax(student / T) - softmax(teacher / T)) / rows is
    made along with the loss, so that of all intermediate values only it is kept.
    """
    loss: Tensor = _SoftTargets.apply(student, teacher, temperature)  # type: ignore[no-untyped-call]
    return loss


class _SoftTargets(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        classes = student.shape[-1]
        rows = max(1, student.numel() // max(classes, 1))
        gradient = torch.empty(student.shape, device=student.device) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=torch.float64, device=student.device)
        sides = [side.detach().reshape(-1, classes) for side in (student, teacher)]
        for start in range(0, rows, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            log_q, log_p = (torch.log_softmax(side[part].float() / temperature, -1) for side in sides)
            p = log_p.exp()
            total += (p * (log_p - log_q)).sum(dtype=torch.float64)
            if gradient is not None:
                gradient.view(-1, classes)[part] = log_q.exp_().sub_(p).mul_(temperature / rows)
        ctx.save_for_backward(gradient)
        ctx.dtype = student.dtype
        return (total * temperature**2 / rows).float()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * outer[0]).to(ctx.dtype), None, None


def hard_labels(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C) and class numbers (B,), in nats."""
    return F.cross_entropy(logits.float(), targets)


def masks(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy at each place of logits (B, C, ...) and masks (B, ...) of class numbers, -1 where not judged; nats.

    Without a place to judge it is zero.
    """
    logits, targets = logits.float(), targets.long()
    total = F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
    return total / (targets >= 0).sum().clamp(min=1)


def squared_error(answers: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of answers and targets (B, ...)."""
    return F.mse_loss(answers.float(), targets.float())


def next_tokens(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of logits (B, T, V) and token numbers (B, T): position t is judged on token t + 1. Nats."""
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten())


def relative_squares(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of vectors (rows, width), over the teacher's mean square: layers count alike.

    FitNets, equation 3, https://arxiv.org/abs/1412.6550, made free of scale.
    """
    return (student - teacher).square().mean() / teacher.square().mean().clamp(min=LEAST)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine of vectors (rows, width). DistilBERT, section 3, https://arxiv.org/abs/1910.01108."""
    return (1 - F.cosine_similarity(student, teacher, dim=-1, eps=LEAST)).mean()


def attention_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of attention rows (rows, keys) that add up to one, in nats; masked keys are zero in both.

    MiniLM, equation 2, https://arxiv.org/abs/2002.10957.
    """
    p, q = teacher.clamp(min=LEAST), student.clamp(min=LEAST)
    return (p * (p.log() - q.log())).sum(-1).mean()
