"""Which architectures are written for llama.cpp, and what their tensors are called there."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from ..formats.gguf_file import BLOCK, TOP

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # ours -> llama.cpp's
OURS = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
ROPES = ("default", "linear", "llama3")
ROPE_FREQS = "rope_freqs.weight"
NORMS_OF_HEADS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}  # of Qwen3
_THEIRS = {ours: theirs for theirs, ours in TOP.items()}
_PARTS = {ours: theirs for theirs, ours in (BLOCK | NORMS_OF_HEADS).items()}
_INNER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")


def why_not(config: Any) -> str | None:
    """Why llama.cpp would not compute what a model of this (parsed) configuration does; None where it would."""
    kind = config.model_type
    if kind not in ARCHITECTURES:
        return f"It is written for models of type {', '.join(ARCHITECTURES)}; this one is of type {kind}."
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in ROPES:
        return f"Its positions are stretched by {rope!r}; here {', '.join(ROPES)} are written."
    if getattr(config, "hidden_act", "silu") != "silu":
        return f"Its MLPs use {config.hidden_act}; llama.cpp computes SiLU for {kind}."
    if getattr(config, "mlp_bias", False):
        return "Its MLPs have biases, which are not written."
    return None


def their_name(name: str) -> str | None:
    """llama.cpp's name of a tensor; None where it has none."""
    if name in _THEIRS:
        return _THEIRS[name]
    inner = _INNER.fullmatch(name)
    part = _PARTS.get(inner[2]) if inner else None
    return f"blk.{inner[1]}.{part}.{inner[3]}" if inner and part else None


def turned_heads(name: str, config: Any) -> int:
    """Of how many heads the rows lie in another order there; 0 for tensors whose rows stay.

    `llama` rotates neighbours where transformers rotates the two halves of a head; the other architectures agree.
    """
    if ARCHITECTURES[config.model_type] != "llama":
        return 0
    if ".q_proj." in name:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads or config.num_attention_heads) if ".k_proj." in name else 0


def interleaved(rows: Tensor, heads: int) -> Tensor:
    """Rows (heads * 2 * half, …) in llama.cpp's order: (heads, half, 2, …)."""
    order = torch.arange(len(rows)).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
    return rows[order]


def apart(rows: Tensor, heads: int) -> Tensor:
    """The inverse of `interleaved`."""
    order = torch.arange(len(rows)).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
    return rows[order]
