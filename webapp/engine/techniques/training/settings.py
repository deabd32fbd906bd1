"""What every technique that trains can be told."""

from __future__ import annotations

import math
from typing import Literal

from webapp.engine.facts import ArchitectureSpec
from webapp.engine.lazy import torch
from webapp.engine.recipe import TechniqueSettings, setting

RATES = {"adamw": (5e-3, 1e-4), "sgd": (1e-1, 5e-3)}  # of networks of ours, of transformers
BATCHES = {
    "causal-lm": 2,
    "embedding": 32,
    "text-classification": 32,
    "token-classification": 32,
    "masked-lm": 16,
}  # chunks of 512 tokens; texts
IMAGES = 32
Schedule = Literal["cosine", "linear", "constant"]


def rate_factor(schedule: Schedule, done: float, warmup: float) -> float:
    """`done` is the share of the training that is behind, 0 to 1; it rises linearly over the share `warmup`.

    After that: half a cosine down to zero (SGDR, equation 5, https://arxiv.org/abs/1608.03983), a line to zero, or 1.
    """
    if done < warmup:
        return done / warmup
    rest = min(1.0, (done - warmup) / (1 - warmup)) if warmup < 1 else 1.0
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * rest))
    return 1 - rest if schedule == "linear" else 1.0


class TrainingSettings(TechniqueSettings):
    epochs: float = setting(
        3.0, "Epochs", "Passes over the training samples; the last may be a part.", step=0.1, gt=0.0, le=10_000.0
    )
    minutes: float = setting(
        0.0,
        "Time limit",
        "Training ends after this time even if its epochs are not done, and the learning rate follows the clock; "
        "0: no limit. With a limit the same seed may give other bytes.",
        unit="minutes",
        step=0.5,
        ge=0.0,
        le=100_000.0,
    )
    optimizer: Literal["adamw", "sgd"] = setting(
        "adamw",
        "Optimizer",
        "adamw suits nearly everything. sgd (momentum 0.9) needs half the memory.",
    )
    learning_rate: float = setting(
        0.0,
        "Learning rate",
        "At its peak. 0: what suits, which is 0.0001 for transformers and 0.005 for smaller networks with adamw, "
        "0.005 and 0.1 with sgd, and 10 times that with LoRA.",
        step=0.0001,
        ge=0.0,
        le=10.0,
    )
    schedule: Schedule = setting(
        "cosine",
        "Schedule",
        "How the learning rate falls to zero after the warm-up; constant: it does not.",
    )
    warmup: float = setting(
        0.05, "Warm-up", "Share of the training over which the learning rate rises.", widget="slider", ge=0.0, le=0.5
    )
    batch_size: int = setting(
        0,
        "Batch size",
        "Samples that are computed at once: images, texts, or chunks of 512 tokens. 0: 32, or 2 chunks.",
        unit="samples",
        ge=0,
        le=65_536,
    )
    accumulate: int = setting(
        1, "Gradient accumulation", "Batches whose gradients are added up before the weights change.", ge=1, le=1024
    )
    weight_decay: float = setting(
        0.01, "Weight decay", "Pull of matrices towards zero; biases and norms have none.", step=0.01, ge=0.0, le=1.0
    )
    clip: float = setting(
        1.0, "Gradient clipping", "Largest norm of the gradient of all weights; 0: none.", step=0.1, ge=0.0, le=1000.0
    )
    validation: float = setting(
        0.1,
        "Validation share",
        "Share of the training samples that are held out to validate on: the best weights are kept, which "
        "may be those from before it. 0: none are, and the last weights are kept.",
        widget="slider",
        ge=0.0,
        le=0.5,
    )
    patience: int = setting(
        5,
        "Patience",
        "Training stops after so many evaluations (ten where they cost little) without improvement; 0: never.",
        unit="evaluations",
        ge=0,
        le=1000,
    )
    dropout: bool = setting(
        False,
        "Dropout",
        "On: as the model's configuration says. Small models that lost weights want none.",
    )
    batch_norm: bool = setting(
        True, "Update batch-norm statistics", "On: means and variances follow the training batches."
    )
    train_scales: bool = setting(
        True,
        "Train quantization scales",
        "On: the scales of quantized weights are learned as well as the integers.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto",
        "Precision",
        "auto: products in bfloat16 where the hardware has it (a GPU, or a CPU with AMX), else float32.",
    )

    def rate(self, spec: ArchitectureSpec, times: float = 1.0) -> float:
        """The peak of the learning rate; `times` as high as for whole weights where it is not told."""
        ours, transformers = RATES[self.optimizer]
        suits = transformers if spec.family == "transformers" else ours
        return self.learning_rate or suits * times

    def batch(self, spec: ArchitectureSpec) -> int:
        """Samples of one forward pass."""
        return self.batch_size or BATCHES.get(spec.task or "", IMAGES)

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which products are computed."""
        hardware = device.type == "cuda" or torch.cpu._is_amx_tile_supported()
        half = self.precision == "bfloat16" or (self.precision == "auto" and hardware)
        return torch.autocast(device.type, torch.bfloat16, enabled=half)
