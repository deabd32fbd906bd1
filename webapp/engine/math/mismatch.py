"""Making up for what earlier layers lost: the weight that answers on today's inputs as the original did on its own.

Li et al. 2025 (GPTAQ), https://arxiv.org/abs/2504.02692, and Zhang et al. 2025 (Qronos),
https://arxiv.org/abs/2505.11695: |x T^T - x_original W^T|^2 is least for T = W x_original^T x (x^T x)^-1, and the error
of any other weight is that of T plus its distance from T in the metric of x. Where the answers are added to a residual
stream, what that lacks is made up for as well: Lin et al. 2025 (LoaQ), https://arxiv.org/abs/2509.06297.
"""

from __future__ import annotations

from webapp.engine.lazy import Tensor, torch

DAMPING = 0.2  # of the mean of H's diagonal: with less, weights are fitted to what the samples have by chance


def made_up_for(weight: Tensor, half: Tensor, drift: Tensor, lack: Tensor | None = None) -> Tensor:
    """T (m, n) = W + (W drift^T + lack^T) H^-1, for `weight` W (m, n) and a damped H = x^T x + d.

    `half` F (n, n) with F^T F = H^-1; drift x^T (x_original - x) (n, n), lack x^T (r_original - r) (n, m) of the
    streams r. So |x T^T + r - x_original W^T - r_original|^2 + d |T - W|^2 is least. Sums that are no numbers tell
    nothing: T is W then.
    """
    asked = weight @ drift.t()
    if lack is not None:
        asked += lack.t()
    found = torch.addmm(weight, asked @ half.t(), half)
    return found if bool(found.isfinite().all()) else weight
