"""The gradient of `losses.soft_targets`, made along with the loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

ROWS_AT_ONCE = 128  # of a vocabulary's width: what is held beside the logits and their gradient


class SoftTargets(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float, reverse: bool, skew: float) -> Tensor:
        classes = student.shape[-1]
        rows = max(1, student.numel() // max(classes, 1))
        gradient = torch.empty(student.shape, device=student.device) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), dtype=torch.float64, device=student.device)
        sides = [side.detach().reshape(-1, classes) for side in (student, teacher)]
        for start in range(0, rows, ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            log_q, log_p = (torch.log_softmax(side[part].float() / temperature, -1) for side in sides)
            loss, slope = (_reverse if reverse else _forward)(log_p, log_q, skew)
            total += loss
            if gradient is not None:
                gradient.view(-1, classes)[part] = slope.mul_(temperature / rows)
        ctx.save_for_backward(gradient)
        ctx.dtype = student.dtype
        return (total * temperature**2 / rows).float()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * outer[0]).to(ctx.dtype), None, None, None, None


def _forward(log_p: Tensor, log_q: Tensor, skew: float) -> tuple[Tensor, Tensor]:
    """KL(p || m) of all rows, m = skew p + (1 - skew) q, and its slope by the student's logits, q (r - q r) summed."""
    p = log_p.exp()
    log_m = _mixed(log_p, log_q, skew)
    loss = (p * (log_p - log_m)).sum(dtype=torch.float64)
    if not skew:
        return loss, log_q.exp_().sub_(p)
    pulled = log_q.sub_(log_m).exp_().mul_(p).mul_(1 - skew)  # (1 - skew) p q / m
    q = log_m.exp_().sub_(p, alpha=skew).div_(1 - skew)
    return loss, q.mul_(pulled.sum(-1, keepdim=True)).sub_(pulled)


def _reverse(log_p: Tensor, log_q: Tensor, skew: float) -> tuple[Tensor, Tensor]:
    """The same of KL(q || m), m = (1 - skew) p + skew q."""
    q = log_q.exp()
    ratio = log_q.sub_(_mixed(log_q, log_p, skew))  # log (q / m)
    loss = (q * ratio).sum(dtype=torch.float64)
    steep = ratio.sub_(ratio.exp(), alpha=skew) if skew else ratio
    return loss, q * (steep - (q * steep).sum(-1, keepdim=True))


def _mixed(log_one: Tensor, log_other: Tensor, share: float) -> Tensor:
    """log (share one + (1 - share) other)."""
    if not share:
        return log_other
    return torch.logaddexp(log_one + math.log(share), log_other + math.log(1 - share))
