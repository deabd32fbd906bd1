"""The hyperparameters in a GGUF file: written from a configuration, and read back into one."""

from __future__ import annotations

from typing import Any

from gguf import GGUFReader, GGUFWriter, LlamaFileType, RopeScalingType

from webapp.engine.importers.gguf.model import head_size
from webapp.engine.importers.gguf.names import ARCHITECTURES, OURS

QUANTIZATION_VERSION = 2
FILE_TYPES = {
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
    "Q4_1": LlamaFileType.MOSTLY_Q4_1,
}


def write_hyperparameters(writer: GGUFWriter, config: Any, title: str, mostly: str) -> None:
    """`config` is transformers', parsed; `mostly` the kind of most of the values."""
    rope = getattr(config, "rope_parameters", None) or {}
    writer.add_type("model")
    writer.add_name(title)
    writer.add_file_type(FILE_TYPES[mostly])
    writer.add_quantization_version(QUANTIZATION_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads or config.num_attention_heads)
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_rope_dimension_count(head_size(config))
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def read_config(reader: GGUFReader) -> dict[str, Any]:
    """A config.json of the model in the file, by the file alone."""

    def value(key: str) -> Any:
        field = reader.get_field(key)
        return None if field is None else field.contents()

    kind = str(value("general.architecture"))
    names = {tensor.name for tensor in reader.tensors}
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": value(f"{kind}.rope.freq_base")}
    if value(f"{kind}.rope.scaling.type") == "linear":
        rope |= {"rope_type": "linear", "factor": value(f"{kind}.rope.scaling.factor")}
    return {
        "model_type": next(ours for ours, theirs in ARCHITECTURES.items() if theirs == kind),
        "architectures": [OURS[kind]],
        "vocab_size": value(f"{kind}.vocab_size"),
        "max_position_embeddings": value(f"{kind}.context_length"),
        "hidden_size": value(f"{kind}.embedding_length"),
        "num_hidden_layers": value(f"{kind}.block_count"),
        "intermediate_size": value(f"{kind}.feed_forward_length"),
        "num_attention_heads": value(f"{kind}.attention.head_count"),
        "num_key_value_heads": value(f"{kind}.attention.head_count_kv"),
        "head_dim": value(f"{kind}.attention.key_length"),
        "rms_norm_eps": value(f"{kind}.attention.layer_norm_rms_epsilon"),
        "rope_parameters": rope,
        "attention_bias": "blk.0.attn_q.bias" in names,
        "tie_word_embeddings": "output.weight" not in names,
    }
