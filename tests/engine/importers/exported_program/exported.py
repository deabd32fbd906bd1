"""Modules of every make, exported by torch itself."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

from tests import zoo
from webapp.engine.facts import CheckpointFacts


def export(
    module: nn.Module,
    given: tuple[Tensor, ...],
    path: Path,
    dynamic: Any = None,
    decomposed: bool = False,
    **kwargs: Any,
) -> Path:
    """The two lines that make such a file. `dynamic`: axes of each input that are free, by default the first."""
    if dynamic is None:
        dynamic = tuple({0: Dim("batch")} for _ in given)
    with warnings.catch_warnings(), zoo.uncached():
        warnings.simplefilter("ignore")
        program = torch.export.export(module.eval(), given, kwargs or None, dynamic_shapes=dynamic or None)
        torch.export.save(program.run_decompositions() if decomposed else program, path)
    return path


class ConvEmbedAttend(nn.Module):
    """Tokens (B, T) to one of five classes: an embedding, a convolution over its neighbours, attention, a mean."""

    def __init__(self, vocab: int = 60, width: int = 32, classes: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.conv = nn.Conv1d(width, width, 3, padding=1)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width, classes)
        self.register_buffer("positions", 0.02 * torch.randn(64, width), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        h = functional.gelu(self.conv(h.transpose(1, 2))).transpose(1, 2)
        attended, _ = self.attention(h, h, h, need_weights=False)
        h = self.norm(h + self.dropout(attended))
        return self.head(h.mean(1))


class Residual(nn.Module):
    """An image (B, 3, 16, 16) through convolutions with norms and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.block = nn.Sequential(
            nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 16, 3, padding=1)
        )
        self.down = nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=2)
        self.fc = nn.Linear(32 * 4 * 4, 10)

    def forward(self, image: Tensor) -> Tensor:
        h = self.stem(image)
        h = functional.relu(h + self.block(h))
        h = functional.max_pool2d(self.down(h), 2)
        return self.fc(h.flatten(1))


class Functional(nn.Module):
    """Weights that belong to no layer: torch.nn.functional, and `@` with the outputs last."""

    def __init__(self) -> None:
        super().__init__()
        self.w_in, self.b_in = nn.Parameter(torch.randn(24, 12) / 4), nn.Parameter(torch.randn(24))
        self.turned = nn.Parameter(torch.randn(24, 20) / 5)
        self.scale = nn.Parameter(torch.rand(20))
        self.up = nn.ConvTranspose1d(4, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(functional.linear(x, self.w_in, self.b_in)) @ self.turned * self.scale
        return self.up(h.view(-1, 4, 5)).flatten(1)


class Masked(nn.Module):
    """Two inputs, called as a tokenizer calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(60, 64), nn.Linear(64, 10)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        words = self.words(input_ids) * attention_mask.unsqueeze(-1)
        return self.out(words.sum(1) / attention_mask.sum(1, keepdim=True))


class TinyGpt(nn.Module):
    """A causal language model whose head is its embedding."""

    def __init__(self, vocab: int = 50, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 64, batch_first=True, norm_first=True) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.tokens.weight
        self.register_buffer("mask", torch.triu(torch.full((64, 64), float("-inf")), 1))

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        h = self.tokens(ids) + self.places(torch.arange(length, device=ids.device))
        for block in self.blocks:
            h = block(h, src_mask=self.mask[:length, :length])
        return self.head(self.norm(h))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(8, 16, num_layers=2, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0][:, -1])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))


BATCH, LENGTH = Dim("batch"), Dim("length", max=48)
CASES: dict[str, tuple[Any, tuple[Tensor, ...], Any]] = {  # name -> module, example, free axes
    "mlp": (mlp, (torch.zeros(3, 20),), None),
    "linear": (lambda: nn.Linear(10, 5), (torch.zeros(3, 10),), None),
    "residual": (Residual, (torch.zeros(3, 3, 16, 16),), None),
    "functional": (Functional, (torch.zeros(3, 12),), None),
    "conv_embed_attend": (ConvEmbedAttend, (torch.zeros(3, 7, dtype=torch.int64),), ({0: BATCH, 1: LENGTH},)),
    "masked": (
        Masked,
        (torch.zeros(3, 7, dtype=torch.int64), torch.ones(3, 7, dtype=torch.int64)),
        ({0: BATCH, 1: LENGTH}, {0: BATCH, 1: LENGTH}),
    ),
    "gpt": (TinyGpt, (torch.zeros(3, 7, dtype=torch.int64),), ({0: BATCH, 1: LENGTH},)),
    "lstm": (Recurrent, (torch.zeros(3, 5, 8),), None),
    "conv3d": (
        lambda: nn.Sequential(nn.Conv3d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8, 3)),
        (torch.zeros(2, 1, 4, 4, 4),),
        None,
    ),
}
IDS = torch.zeros(3, 24, dtype=torch.int64)
FIXED = {  # as CASES
    "tokens": (ConvEmbedAttend, (IDS,), None),
    "masked tokens": (Masked, (IDS, IDS + 1), None),
    "one image": (Residual, (torch.zeros(1, 3, 16, 16),), ({},)),
}


def inspected(name: str, fixed: bool = False) -> tuple[nn.Module, Path, CheckpointFacts]:
    """(torch's own module of a case, the folder of its normalised files, its facts)."""
    make, given, dynamic = (CASES | FIXED)[name]
    torch.manual_seed(0)
    module = make().eval()

    def upload(folder: Path) -> Path:
        return export(module, given, folder / f"{name}.pt2", () if fixed else dynamic)

    return module, *zoo.inspected(f"program {name} {fixed}", upload)
