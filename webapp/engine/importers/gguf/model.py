"""A GGUF file's configuration and tensors as transformers has them, by its own loader's tables and gguf-py's names.

transformers' loader reads all tensors at once and takes over only some of what the metadata says, so that a model with
other rotary positions or head sizes than its type's usual ones answers wrongly there without a word. Here each tensor
stays in the file until it is asked for, and `config_of` adds what is missing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import gguf
import numpy as np
from gguf import GGUFReader, dequantize
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import (
    GGUF_SUPPORTED_ARCHITECTURES,
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from webapp.engine.errors import CheckpointRefused, quoted
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.math.ggml import TYPES
from webapp.engine.weights.safetensors import LazyTensor

from .names import LONG, NAMED_OTHERWISE, ROPE_FREQS, SHORT

ENTRIES = {"general", "tokenizer"}  # of transformers' table, which are no architectures
NORM_EPSILONS = ("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
LARGEST_GEMMAS = {"gemma2": 46, "gemma3": 62}  # whose queries are scaled by all heads' width, told by their blocks
LARGEST_NUMBER = 20_000_000  # the longest context that a model has
gguf.get_tensor_name_map = lru_cache(1)(gguf.get_tensor_name_map)  # transformers makes it anew for each submodule
AS_THEY_ARE = ("token_embd.weight", "output.weight")
AT_ONCE = 1 << 20  # bytes dequantized at a time
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # as published


def why_not(architecture: str, reader: GGUFReader) -> str | None:
    """Why a file of llama.cpp's architecture `architecture` cannot be taken in; None where it can."""
    known = sorted(set(GGUF_SUPPORTED_ARCHITECTURES) - ENTRIES)
    if NAMED_OTHERWISE.get(architecture, architecture) not in known:
        return (
            f"is of architecture {quoted(architecture)}, which transformers does not load; it loads {', '.join(known)}"
        )
    experts = _value(reader, f"{architecture}.expert_count")
    if architecture == "llama" and experts:
        return f"is a LLaMA of {experts} experts (Mixtral), which transformers does not load from GGUF"
    heads = _value(reader, f"{architecture}.attention.head_count_kv")
    if architecture == "falcon" and heads not in (None, 1):
        return f"is a Falcon of {heads} key-value heads, which transformers does not load from GGUF"
    return None


def absurd(architecture: str, reader: GGUFReader) -> str | None:
    """Which number of the metadata no model has, as a sentence: modules and tables would be made of that size."""
    for key, field in reader.fields.items():
        value = field.contents() if key.startswith(f"{architecture}.") and len(field.data) == 1 else None
        if type(value) is int and not 0 <= value <= LARGEST_NUMBER:
            return f"says {key} {value}, beyond any model there is"
    blocks = _value(reader, f"{architecture}.block_count") or 0
    if blocks > len(reader.tensors):
        return f"says {architecture}.block_count {blocks} and holds {len(reader.tensors)} tensors"
    heads, hidden = (_value(reader, f"{architecture}.{key}") for key in ("attention.head_count", "embedding_length"))
    size = _value(reader, f"{architecture}.attention.key_length") or (hidden // heads if heads and hidden else None)
    rotary = _value(reader, f"{architecture}.rope.dimension_count")
    if size and rotary and rotary > size:
        return f"says {architecture}.rope.dimension_count {rotary}, and its heads have {size} values"
    return None


def config_of(reader: GGUFReader, architecture: str, file: Path) -> dict[str, Any]:
    """config.json of the model in the file. Raises CheckpointRefused, or what transformers raises on damage."""
    parsed: Any = AutoConfig.from_pretrained(
        pretrained_model_name_or_path=file.parent, gguf_file=file.name, local_files_only=True
    )
    if type(parsed) not in AutoModelForCausalLM._model_mapping:
        raise CheckpointRefused(f"transformers has no language model of type {quoted(parsed.model_type)}.")
    config: dict[str, Any] = parsed.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    config["architectures"] = [AutoModelForCausalLM._model_mapping[type(parsed)].__name__]
    config["dtype"] = "float32"
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "token_embd.weight" in tensors:
        config["vocab_size"] = int(tensors["token_embd.weight"].shape[1])

    def told(key: str) -> Any:
        return _value(reader, f"{architecture}.{key}")

    _take_over(config, told, architecture, tensors)
    if "rope_parameters" in config:
        _take_over_positions(config, told, tensors)
    return config


def _take_over(
    config: dict[str, Any], told: Callable[[str], Any], architecture: str, tensors: Mapping[str, Any]
) -> None:
    """What transformers' loader leaves at the type's default although the file says it."""
    epsilon = told("attention.layer_norm_rms_epsilon") or told("attention.layer_norm_epsilon")
    said = {
        "head_dim": told("attention.key_length"),
        "n_positions": told("context_length"),
        "moe_intermediate_size": told("expert_feed_forward_length"),
        "shared_expert_intermediate_size": told("expert_shared_feed_forward_length"),
        "attn_logit_softcapping": told("attn_logit_softcapping"),
        "final_logit_softcapping": told("final_logit_softcapping"),
        "sliding_window": told("attention.sliding_window"),
        "attention_bias": True if "blk.0.attn_q.bias" in tensors else None,
        "mlp_bias": True if "blk.0.ffn_up.bias" in tensors else None,
        **dict.fromkeys(NORM_EPSILONS, epsilon),
    }
    if "query_pre_attn_scalar" in config and told("attention.key_length"):  # as llama.cpp decides it
        largest = told("block_count") == LARGEST_GEMMAS.get(architecture)
        whole = told("embedding_length") // told("attention.head_count") if largest else None
        said["query_pre_attn_scalar"] = whole or told("attention.key_length")
    config |= {key: value for key, value in said.items() if key in config and value is not None}
    size, heads = told("attention.key_length"), config.get("num_attention_heads")
    if size and heads and "head_dim" not in config and size * heads != config.get("hidden_size"):
        config["head_dim"] = size  # which types without a default for it take too, such as a Qwen2 cut by heads
    for key in [key for key in config if key.endswith("_token_id")]:
        if type(config[key]) is int and config[key] >= config["vocab_size"]:
            config[key] = None  # the type's own default, of another vocabulary


def _take_over_positions(config: dict[str, Any], told: Callable[[str], Any], tensors: Mapping[str, Any]) -> None:
    """Rotary positions: their base, how much of a head they turn, and how they are stretched for long texts."""
    by_kind = copy.deepcopy(config["rope_parameters"]) or {"rope_type": "default"}
    config["rope_parameters"] = by_kind
    rope = by_kind.get("full_attention") or by_kind  # where kinds of layers differ, the file tells the global ones'
    if base := told("rope.freq_base"):
        rope["rope_theta"] = float(base)
    size, rotary = head_size(SimpleNamespace(**config)), told("rope.dimension_count")
    if rotary and rotary != size:
        rope["partial_rotary_factor"] = rotary / size
    original = told("rope.scaling.original_context_length")
    if original:
        rope["original_max_position_embeddings"] = int(original)
        if "original_max_position_embeddings" in config:
            config["original_max_position_embeddings"] = int(original)
    kind, factor = told("rope.scaling.type"), told("rope.scaling.factor")
    if LONG in tensors and SHORT in tensors:
        rope |= {"rope_type": "longrope", "attention_factor": float(told("rope.scaling.attn_factor") or 1.0)}
        rope |= {"long_factor": _listed(tensors[LONG]), "short_factor": _listed(tensors[SHORT])}
    elif kind in ("linear", "yarn") and factor:
        rope |= {"rope_type": kind, "factor": float(factor)}
    elif ROPE_FREQS in tensors:
        factors = torch.tensor(_listed(tensors[ROPE_FREQS]))
        published = {**rope, **LLAMA3, "rope_type": "llama3", "factor": float(factors.max())}
        computed = rope_factors(SimpleNamespace(**{**config, "rope_parameters": published}))
        if computed is not None and computed.shape == factors.shape and torch.allclose(computed, factors, rtol=1e-4):
            rope |= published


class Tensors(NamedTuple):
    """`floats` by transformers' names, float32 when they are loaded; `blocks` of those of them that are llama.cpp's
    blocks row by row, (type, uint8 (rows, bytes)); `beside`, names of what the file holds beside the model's."""

    floats: dict[str, LazyTensor]
    blocks: dict[str, tuple[str, LazyTensor]]
    beside: list[str]


def tensors_of(
    reader: GGUFReader, architecture: str, config: dict[str, Any], module: nn.Module, filename: str
) -> Tensors:
    """What the file holds of the model.

    `module` is the model on the meta device. Raises CheckpointRefused for a tensor that the model does not have.
    """
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config)
    names = get_gguf_hf_weights_map(module, processor)
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    sources: dict[str, list[Any]] = {}
    beside: list[str] = []
    for tensor in reader.tensors:
        name = names.get(tensor.name) or names.get(tensor.name.removesuffix(".weight"))
        if tensor.name.startswith("rope_f"):
            beside.append(tensor.name)
        elif name is None:
            raise CheckpointRefused(f"{filename} holds {tensor.name}, which a {type(module).__name__} does not have")
        else:
            sources.setdefault(name, []).append(tensor)
    for name, parts in sources.items():
        held, wanted = sum(int(np.prod(part.shape, dtype=object)) for part in parts), int(np.prod(shapes[name]))
        if held != wanted:
            raise CheckpointRefused(
                f"{parts[0].name} in {filename} has shape {[int(n) for n in reversed(parts[0].shape)]}; "
                f"{type(module).__name__} by its metadata expects {list(shapes[name])}"
            )

    def loader(name: str) -> Callable[[], Tensor]:
        def load() -> Tensor:
            found: dict[str, Any] = {"tensors": {}}
            for part in sources[name]:
                values = floats_of(part, 0, len(part.data)).numpy()
                shaped = values.reshape([int(size) for size in reversed(part.shape)])
                done = processor.process(shaped, part.name, tensor_key_mapping=names, parsed_parameters=found)
                if done.name is not None:  # else it was put in its place among the others
                    found["tensors"][name] = torch.from_numpy(np.ascontiguousarray(done.weights, dtype=np.float32))
            whole: Tensor = found["tensors"][name]
            return whole.reshape(shapes[name])

        return load

    def rows_of(name: str) -> Callable[[int, int], Tensor] | None:
        """Of what the processors of no kind change."""
        [part, *others] = sources[name]
        if others or part.name not in AS_THEY_ARE or tuple(reversed(part.shape)) != shapes[name]:
            return None
        return partial(floats_of, part)

    floats = {name: LazyTensor(shapes[name], torch.float32, loader(name), rows_of(name)) for name in sources}
    found = {name: _blocks(parts, shapes[name], processor) for name, parts in sources.items()}
    return Tensors(floats, {name: blocks for name, blocks in found.items() if blocks is not None}, beside)


def _blocks(parts: list[Any], shape: tuple[int, ...], processor: Any) -> tuple[str, LazyTensor] | None:
    """A matrix in its blocks, its rows in transformers' order; None of one whose values that loader changes."""
    kind = parts[0].tensor_type.name
    if len(parts) > 1 or len(shape) != 2 or kind not in TYPES or tuple(reversed(parts[0].shape)) != shape:
        return None
    numbers = np.broadcast_to(np.arange(shape[0], dtype=np.float32)[:, None], shape)  # which row each value is of
    done = processor.process(numbers, parts[0].name, tensor_key_mapping={}, parsed_parameters={"tensors": {}}).weights
    if done is None or done.shape != numbers.shape or (done != done[:, :1]).any():
        return None
    order = done[:, 0].astype(np.int64)
    if (np.sort(order) != np.arange(shape[0])).any():
        return None
    raw = parts[0].data

    def part(start: int, end: int) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(raw[order[start:end]]))

    stored = (shape[0], TYPES[kind].row_bytes(shape[1]))
    return kind, LazyTensor(stored, torch.uint8, lambda: part(0, shape[0]), part)


def floats_of(tensor: Any, start: int, end: int) -> Tensor:
    """float32 of some rows of a tensor of the file, dequantized a few at a time."""
    found = np.empty((end - start, *(int(size) for size in reversed(tensor.shape[:-1]))), np.float32)
    few = max(1, AT_ONCE // max(tensor.data[:1].nbytes, 1))
    for first in range(start, end, few):
        some = slice(first, min(first + few, end))
        found[some.start - start : some.stop - start] = dequantize(tensor.data[some], tensor.tensor_type)
    return torch.from_numpy(found)


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _listed(tensor: Any) -> list[float]:
    return [float(value) for value in np.asarray(tensor.data, dtype=np.float32).reshape(-1)]


def head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def rope_factors(config: Any) -> Tensor | None:
    """By what each frequency is divided, float32 (head size / 2), in Llama 3.1's stretching of positions; else None.

    Frequencies whose waves are short against the context it was trained on stay, long ones are divided by `factor`,
    those between in part: as transformers' `_compute_llama3_parameters`. llama.cpp reads them as rope_freqs.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "llama3":
        return None
    exponents = torch.arange(0, head_size(config), 2, dtype=torch.float64) / head_size(config)
    waves = 2 * math.pi * float(rope["rope_theta"]) ** exponents
    low, high, factor = (float(rope[name]) for name in ("low_freq_factor", "high_freq_factor", "factor"))
    turns = float(rope["original_max_position_embeddings"]) / waves  # in the context it was trained on
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - share) / factor + share)).float()
