"""llama.cpp's names beside transformers': of architectures and of tensors, for files that come in and that go out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from webapp.engine.lazy import Tensor, torch

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # ours -> llama.cpp's
OURS = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
NAMED_OTHERWISE = {  # llama.cpp's name -> transformers'
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
    "gpt-oss": "gpt_oss",
    "minimax-m2": "minimax_m2",
}
ROPES = ("default", "linear", "llama3")
ROPE_FREQS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
_BLOCK = re.compile(r"model\.layers\.(\d+)\.")


def why_not(config: Mapping[str, Any]) -> str | None:
    """Why llama.cpp would not compute what a model of this config.json does; None where it would."""
    kind = config["model_type"]
    if kind not in ARCHITECTURES:
        return f"It is written for models of type {', '.join(ARCHITECTURES)}; this one is of type {kind}."
    stretched = config.get("rope_scaling") or config.get("rope_parameters") or {}  # as transformers reads them
    rope = stretched.get("rope_type", stretched.get("type", "default"))
    if rope not in ROPES:
        return f"Its positions are stretched by {rope!r}; here {', '.join(ROPES)} are written."
    if (activation := config.get("hidden_act", "silu")) != "silu":
        return f"Its MLPs use {activation}; llama.cpp computes SiLU for {kind}."
    if config.get("mlp_bias"):
        return "Its MLPs have biases, which are not written."
    return None


@cache
def _table() -> Any:
    """gguf-py's names for one block of Qwen3: those of the other architectures here, and the norms of heads."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    return get_tensor_name_map(MODEL_ARCH.QWEN3, 1)


def their_name(name: str) -> str | None:
    """llama.cpp's name of a tensor; None where it has none."""
    stem, _, suffix = name.rpartition(".")
    block = _BLOCK.match(stem)
    found = _table().get_name(_BLOCK.sub("model.layers.0.", stem)) if suffix in ("weight", "bias") else None
    return f"{found.replace('blk.0.', f'blk.{block[1]}.') if block else found}.{suffix}" if found else None


def permuted_heads(name: str, config: Any) -> int:
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
