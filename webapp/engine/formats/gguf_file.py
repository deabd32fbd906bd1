"""A GGUF file of a LLaMA-type model, dequantized to float32, its tokenizer kept.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Config and tokenizer are read by transformers; the tensors
are dequantized one at a time by gguf-py, and the rows of q and k put back into the order that transformers rotates.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointRefused
from ..progress import Report
from ..safetensors_file import LazyTensor
from .base import Accepted, Format, Opened

TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
IGNORED = ("rope_freqs.weight",)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
UNQUANTIZED = ("F64", "F32", "F16", "BF16")


class Gguf(Format):
    name: ClassVar[str] = "gguf"
    accepts = Accepted(
        (".gguf",),
        "GGUF",
        "A language model as llama.cpp reads it, of the LLaMA type; quantized weights become floats again.",
    )

    @classmethod
    def recognises(cls, upload: Path, head: bytes) -> bool:
        return head[:4] == b"GGUF"

    @classmethod
    def open(cls, upload: Path, filename: str, scratch: Path, report: Report) -> Opened:
        from gguf import GGUFReader

        report.progress(0.02, "Reading the GGUF header")
        with _damage_named(filename):
            reader = GGUFReader(upload)
            architecture = _text(reader, "general.architecture")
            experts = reader.get_field(f"{architecture}.expert_count")
        if architecture != "llama" or (experts is not None and int(experts.contents()) > 0):
            kind = "a mixture of experts" if architecture == "llama" else f"of architecture {architecture!r}"
            raise CheckpointRefused(
                f"{filename} is {kind}; Pare reads GGUF of LLaMA-type models. "
                "Upload a zip of the model's Hugging Face folder instead"
            )
        config, files = _config_and_tokenizer(upload, filename, scratch, report)
        heads = int(config["num_attention_heads"])
        tensors: dict[str, LazyTensor] = {}
        types: Counter[str] = Counter()
        for tensor in reader.tensors:
            if tensor.name in IGNORED:
                continue
            name, turned = _translated(tensor.name, filename), 0
            if ".self_attn.q_proj." in name:
                turned = heads
            elif ".self_attn.k_proj." in name:
                turned = int(config.get("num_key_value_heads") or heads)
            shape = tuple(int(size) for size in reversed(tensor.shape))
            if turned and (shape[0] % (2 * turned) or len(shape) != 2):
                raise CheckpointRefused(f"{tensor.name} in {filename} has shape {list(shape)}: not {turned} heads")
            types[tensor.tensor_type.name] += int(np.prod(shape))
            tensors[name] = LazyTensor(shape, torch.float32, _loader(tensor, shape, turned, filename))
        notes = [_dequantized(types, upload, sum(tensor.bytes for tensor in tensors.values()))]
        if any(tensor.name in IGNORED for tensor in reader.tensors):
            notes.append("Its rope_freqs.weight (positions stretched for long texts) is not applied.")
        return Opened(tensors=tensors, config=config, files=files, notes=notes)


@contextmanager
def _damage_named(filename: str) -> Iterator[None]:
    """Turns what gguf-py and transformers raise on a damaged file into its sentence."""
    try:
        yield
    except (ValueError, LookupError, TypeError, OverflowError, UnicodeError, OSError, AttributeError) as error:
        raise CheckpointRefused(f"{filename} is a GGUF file that was cut short or damaged ({error})") from error


def _text(reader: Any, key: str) -> str:
    field = reader.get_field(key)
    if field is None:
        raise CheckpointRefused(f"The GGUF file does not say its {key}.")
    return str(field.contents())


def _config_and_tokenizer(
    upload: Path, filename: str, scratch: Path, report: Report
) -> tuple[dict[str, Any], dict[str, Path]]:
    from transformers import AutoConfig, AutoTokenizer

    report.progress(0.05, "Reading its configuration and tokenizer")
    source = {"pretrained_model_name_or_path": upload.parent, "gguf_file": upload.name, "local_files_only": True}
    with _damage_named(filename):
        parsed = AutoConfig.from_pretrained(**source)
        config: dict[str, Any] = parsed.to_dict()
        tokenizer = AutoTokenizer.from_pretrained(**source)
    for key in ("quantization_config", "_name_or_path"):
        config.pop(key, None)
    config["architectures"] = ["MistralForCausalLM" if config["model_type"] == "mistral" else "LlamaForCausalLM"]
    config["dtype"] = "float32"
    tokenizer.save_pretrained(scratch)
    return config, {name: scratch / name for name in TOKENIZER_FILES if (scratch / name).exists()}


def _translated(name: str, filename: str) -> str:
    """The name that transformers has for a tensor of llama.cpp."""
    if name in TOP:
        return TOP[name]
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if block is None or block[2] not in BLOCK:
        raise CheckpointRefused(f"{filename} holds {name}, which a LLaMA model does not have")
    return f"model.layers.{block[1]}.{BLOCK[block[2]]}.{block[3]}"


def _loader(tensor: Any, shape: tuple[int, ...], heads: int, filename: str) -> Callable[[], Tensor]:
    from gguf import dequantize

    def load() -> Tensor:
        with _damage_named(filename):
            values = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32).reshape(shape)
        if heads:  # llama.cpp interleaves the two halves that are rotated together: (heads, head/2, 2, in) there
            values = values.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
        return torch.from_numpy(np.array(values, copy=True))

    return load


def _dequantized(types: Counter[str], upload: Path, float32_bytes: int) -> str:
    quantized = [name for name, _ in types.most_common() if name not in UNQUANTIZED]
    verb = f"dequantized from {' and '.join(quantized)}" if quantized else f"widened from {' and '.join(types)}"
    return (
        f"{verb} to float32: the upload is {upload.stat().st_size / 1e6:.1f} MB, "
        f"its float32 form is {float32_bytes / 1e6:.0f} MB"
    )
