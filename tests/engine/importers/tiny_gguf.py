"""Tiny GGUF files of many architectures, written as llama.cpp's converter writes them: names, layouts and metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = ["<|endoftext|>", "a", "b", "c", "Ġ", "ab", "Ġa"]
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 64,
    "max_position_embeddings": 64,
}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MODELS = {  # llama.cpp's architecture -> (class, sizes that are not the type's usual ones)
    "llama": ("LlamaForCausalLM", {"rope_theta": 5e5}),
    "qwen2": ("Qwen2ForCausalLM", {"rope_theta": 1e6}),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 32}),
    "gemma2": ("Gemma2ForCausalLM", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 6}),
    "gemma3": ("Gemma3ForCausalLM", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 6}),
    "phi3": ("Phi3ForCausalLM", {"rope_theta": 5e4}),
    "starcoder2": ("Starcoder2ForCausalLM", {"rope_theta": 1e5}),
    "stablelm": ("StableLmForCausalLM", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    "nemotron": ("NemotronForCausalLM", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    "gpt2": ("GPT2LMHeadModel", {"num_key_value_heads": None, "intermediate_size": None}),
    "bloom": ("BloomForCausalLM", {"num_key_value_heads": None, "intermediate_size": None}),
    "falcon": ("FalconForCausalLM", {"num_key_value_heads": 1, "intermediate_size": None}),
    "qwen2moe": ("Qwen2MoeForCausalLM", {**EXPERTS, "shared_expert_intermediate_size": 48}),
    "qwen3moe": ("Qwen3MoeForCausalLM", {**EXPERTS, "head_dim": 32, "norm_topk_prob": True}),
    "mamba": ("MambaForCausalLM", {"state_size": 8, "intermediate_size": 128}),
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "attention_factor": 1.1,
    "short_factor": [1.0 + 0.1 * n for n in range(8)],
    "long_factor": [1.5 + 0.2 * n for n in range(8)],
    "original_max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
STRETCHED = {  # positions for longer texts than a model was trained on: (architecture, what its configuration says)
    "linear": ("qwen2", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "yarn": ("qwen2", {"max_position_embeddings": 256, "rope_parameters": YARN}),
    "llama3": ("llama", {"max_position_embeddings": 32768, "rope_parameters": LLAMA3}),
    "longrope": (
        "phi3",
        {"max_position_embeddings": 512, "original_max_position_embeddings": 256, "rope_parameters": LONGROPE},
    ),
    "by kind of layer": (
        "gemma3",
        {
            "num_hidden_layers": 7,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
}
PLUS_ONE = ("gemma2", "gemma3", "nemotron")  # whose norms' weights are stored with one added


def model_of(architecture: str, **changes: object) -> PreTrainedModel:
    """In eval mode, every parameter drawn anew so that none is the one that it begins with."""
    import transformers

    name, own = MODELS[architecture]
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**{**SIZES, **SPECIAL, **own, **changes})).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("A_log"):
                parameter.copy_(torch.rand_like(parameter))
            else:
                centre = 1.0 if parameter.dim() == 1 and key.endswith("weight") else 0.0
                parameter.copy_(torch.randn_like(parameter) * 0.15 + centre)
    return model


def write_gguf(path, model, architecture="llama", kind="F32", drop=(), extra=(), named=None):
    """`kind` of the matrices whose rows are whole blocks; `named` is the architecture that the file says it is of."""
    writer = gguf.GGUFWriter(path, named or architecture)
    _write_metadata(writer, architecture, model.config)
    quantized = gguf.GGMLQuantizationType[kind]
    for name, values in _tensors(architecture, model):
        if name in drop:
            continue
        values = np.ascontiguousarray(values, dtype=np.float32)
        if kind != "F32" and values.ndim >= 2 and values.shape[-1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(values, quantized), raw_dtype=quantized)
        else:
            writer.add_tensor(name, values)
    for name, values in [*_factors(model.config), *extra]:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _factors(config):
    """The tensors that say by what frequencies are divided."""
    from webapp.engine.importers.gguf.model import rope_factors

    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "llama3":
        yield "rope_freqs.weight", rope_factors(config).numpy()
    for length in ("long", "short") if rope.get("rope_type") == "longrope" else ():
        yield f"rope_factors_{length}.weight", np.array(rope[f"{length}_factor"], dtype=np.float32)


def _write_metadata(writer, architecture, config):
    def of(*names):
        return next((value for name in names if (value := getattr(config, name, None)) is not None), None)

    hidden, heads = of("hidden_size"), of("num_attention_heads", "n_head") or 1
    size = of("head_dim") or hidden // heads
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(of("max_position_embeddings", "n_positions") or 64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(of("intermediate_size", "ffn_hidden_size") or 4 * hidden)
    writer.add_vocab_size(config.vocab_size)
    if architecture == "mamba":
        writer.add_ssm_conv_kernel(config.conv_kernel)
        writer.add_ssm_inner_size(config.intermediate_size)
        writer.add_ssm_state_size(config.state_size)
        writer.add_ssm_time_step_rank(config.time_step_rank)
        writer.add_head_count(0)
    else:
        writer.add_head_count(heads)
        writer.add_head_count_kv(1 if architecture == "falcon" else of("num_key_value_heads") or heads)
    rms = architecture in ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "qwen2moe", "qwen3moe", "mamba")
    epsilon = of("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
    (writer.add_layer_norm_rms_eps if rms else writer.add_layer_norm_eps)(epsilon)
    if architecture in ("qwen3", "qwen3moe", "gemma2", "gemma3"):
        writer.add_key_length(size)
        writer.add_value_length(size)
    if rope := getattr(config, "rope_parameters", None):
        rope = rope.get("full_attention", rope)
        writer.add_rope_freq_base(float(rope["rope_theta"]))
        if rope["rope_type"] in ("linear", "yarn"):
            writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
            writer.add_rope_scaling_factor(rope["factor"])
        if rope["rope_type"] == "longrope":
            writer.add_rope_scaling_attn_factors(rope["attention_factor"])
        if original := rope.get("original_max_position_embeddings"):
            writer.add_rope_scaling_orig_ctx_len(original)
        if architecture not in ("qwen2", "qwen3", "gemma2", "gemma3"):
            writer.add_rope_dimension_count(int(size * rope.get("partial_rotary_factor", 1.0)))
    if architecture.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if architecture == "stablelm":
        writer.add_parallel_residual(config.use_parallel_residual)
    if experts := of("num_experts"):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if shared := of("shared_expert_intermediate_size"):
        writer.add_expert_shared_feed_forward_length(shared)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS + [f"<{index}>" for index in range(config.vocab_size - len(TOKENS))])
    writer.add_token_types([3] + [1] * (config.vocab_size - 1))
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def _tensors(architecture, model):
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    table, config = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers), model.config
    tied = set(model.get_expanded_tied_weights_keys(all_submodels=True))
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue
        stem, _, suffix = name.rpartition(".")
        suffix = f".{suffix}" if suffix in ("weight", "bias") else ""
        stem = stem if suffix else name
        values = tensor.numpy()
        if stem.endswith("experts.gate_up_proj"):
            base = table.get_name(stem.replace("gate_up_proj", "down_proj")).replace("ffn_down_exps", "{}")
            gate, up = np.split(values, 2, axis=1)
            yield base.format("ffn_gate_exps") + ".weight", gate
            yield base.format("ffn_up_exps") + ".weight", up
            continue
        theirs = table.get_name(stem.removeprefix("transformer.")) or table.get_name(stem)
        assert theirs, f"gguf-py has no name for {name}"
        if "experts.down_proj" in stem:
            suffix = ".weight"
        yield theirs + suffix, _laid_out(architecture, theirs + suffix, values, config)


def _laid_out(architecture, name, values, config):
    """As the converter lays the values out."""
    if architecture == "llama" and (".attn_q." in name or ".attn_k." in name):
        heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
        return (
            values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        )
    if architecture in PLUS_ONE and name.endswith("norm.weight"):
        return values + 1
    turned = ("attn_qkv.weight", "ffn_down.weight", "ffn_up.weight", "attn_output.weight")
    if architecture == "gpt2" and name.endswith(turned):
        return values.T
    if architecture == "bloom" and "attn_qkv" in name:  # (heads, 3, size, …) -> (3, heads, size, …)
        apart = values.reshape(config.n_head, 3, -1, *values.shape[1:])
        return apart.swapaxes(0, 1).reshape(values.shape)
    if name.endswith("ffn_gate_inp_shexp.weight"):
        return values.reshape(-1)
    if name.endswith("ssm_conv1d.weight"):
        return values.squeeze(1)
    return -np.exp(values) if name.endswith("ssm_a") else values
