"""The gradient of `losses.soft_targets`, made along with the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS_AT_ONCE = 128  # of a vocabulary's width: what is held beside the logits and their gradient


class SoftTargets(torch.autograd.Function):
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
