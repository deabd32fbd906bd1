"""The hyperparameters in a GGUF file, written from a configuration and read back into one, and its vocabulary.

Of a tokenizer.json it keeps tokens with their kinds, and merges or scores. llama.cpp has its own splitting of text into
words and knows it by a name. convert_hf_to_gguf.py finds the name by a hash of token ids, which knows only the
vocabularies that were listed; here the rules of tokenizer.json are compared themselves, since they are what splits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gguf import GGUFReader, GGUFWriter, LlamaFileType, RopeScalingType, SpecialVocab, TokenType

from webapp.engine.architectures.streaming import runnable
from webapp.engine.architectures.transformers_family import Transformers, parsed_config
from webapp.engine.importers.gguf.model import floats_of, head_size
from webapp.engine.importers.gguf.names import ARCHITECTURES, OURS, ROPE_FREQS, apart, permuted_heads, their_name
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.math.ggml import TYPES
from webapp.engine.weights import Dense, Encoded
from webapp.engine.weights.model import Model
from webapp.engine.weights.safetensors import LazyTensor

QUANTIZATION_VERSION = 2
SLOW_BYTES = 200_000_000  # of floats of an embedding or a head, which gguf-py would decode again for each batch
FILE_TYPES = {
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    **{kind: getattr(LlamaFileType, f"MOSTLY_{kind}", None) for kind in TYPES},
    **{f"Q{bits}_K": LlamaFileType[f"MOSTLY_Q{bits}_K_M"] for bits in (5, 4, 3)},
    "MXFP4": LlamaFileType.MOSTLY_MXFP4_MOE,
}
CASED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {CASED % r"\p{N}{1,3}": "llama-bpe", CASED % r"\p{N}": "qwen2"}
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
SPACE = "\u2581"
UNKNOWN_SPLIT = (
    "llama.cpp has no name for the way in which this tokenizer splits text into words, so it splits by its default "
    "and some texts become other tokens there."
)
UNKNOWN_KIND = (
    "Its tokenizer is of a kind that llama.cpp does not have, so the file has none: llama.cpp takes token ids only."
)
NONE = "The checkpoint has no tokenizer.json, so the file has none either: llama.cpp takes token ids only."
WITHOUT = {UNKNOWN_KIND, NONE}  # with one of these notes the file reads no text


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


def write_vocabulary(writer: GGUFWriter, folder: Path | None, size: int) -> list[str]:
    """Writes the tokenizer in `folder` for a model of `size` tokens, with its chat template; returns the notes."""
    if folder is None or not (folder / "tokenizer.json").exists():
        writer.add_tokenizer_model("no_vocab")
        return [NONE]
    about = json.loads((folder / "tokenizer.json").read_text(encoding="utf8"))
    kind = _kind(about)
    if kind is None or max(_ids(about).values(), default=0) >= size:
        writer.add_tokenizer_model("no_vocab")
        return [UNKNOWN_KIND]
    notes = []
    writer.add_tokenizer_model(kind)
    texts = {index: text for text, index in _ids(about).items()}
    writer.add_token_list([texts.get(index, f"[PAD{index}]") for index in range(size)])
    writer.add_token_types([_type(texts.get(index), index, about, kind) for index in range(size)])
    if kind == "gpt2":
        split = _split(about)
        writer.add_tokenizer_pre(split or "default")
        notes += [] if split else [UNKNOWN_SPLIT]
    else:
        writer.add_tokenizer_pre("default")
        scores = _scores(about)
        writer.add_token_scores([scores.get(texts.get(index, ""), 0.0) for index in range(size)])
        writer.add_add_space_prefix(_prefixed(about))
    special = SpecialVocab(folder, load_merges=kind == "gpt2", n_vocab=size)
    for which in ("bos", "eos"):  # what tokenizer.json itself does not put there is not put there
        special.add_special_token.setdefault(which, False)
    special.add_to_gguf(writer, quiet=True)
    return notes


def _ids(about: Mapping[str, Any]) -> dict[str, int]:
    return {**about["model"]["vocab"], **{added["content"]: added["id"] for added in about.get("added_tokens", ())}}


def _kind(about: Mapping[str, Any]) -> str | None:
    """gpt2: byte pairs over bytes that are spelt as letters; llama: over characters, single bytes where one is new."""
    model = about["model"]
    if model.get("type") != "BPE":
        return None
    if model.get("byte_fallback"):
        return "llama"
    return "gpt2" if any(rule["type"] == "ByteLevel" for rule in _rules(about.get("pre_tokenizer"))) else None


def _rules(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if not part:
        return []
    inner = part.get("pretokenizers") or part.get("normalizers")
    return list(inner) if inner is not None else [part]


def _split(about: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for the rules that split; None where it has none."""
    if about.get("normalizer") and [rule["type"] for rule in _rules(about["normalizer"])] != ["NFC"]:
        return None
    match [(rule["type"], rule) for rule in _rules(about["pre_tokenizer"])]:
        case [("ByteLevel", last)] if last.get("use_regex", True) and not last["add_prefix_space"]:
            return "gpt-2"
        case [("Digits", digits), ("ByteLevel", last)] if last.get("use_regex", True) and digits["individual_digits"]:
            return "smollm"
        case [("Split", split), ("ByteLevel", last)] if not last.get("use_regex", True) and not split["invert"]:
            name = SPLITS.get(split["pattern"].get("Regex", ""))
            merging = bool(about["model"].get("ignore_merges"))  # which llama-bpe implies, and the other does not
            return name if merging == (name == "llama-bpe") else None
    return None


def _type(text: str | None, index: int, about: Mapping[str, Any], kind: str) -> TokenType:
    if text is None:
        return TokenType.UNUSED
    if text == about["model"].get("unk_token"):
        return TokenType.UNKNOWN
    added = next((each for each in about.get("added_tokens", ()) if each["id"] == index), None)
    if added is not None:
        return TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    return TokenType.BYTE if kind == "llama" and BYTE.fullmatch(text) else TokenType.NORMAL


def _scores(about: Mapping[str, Any]) -> dict[str, float]:
    """The earlier two pieces are merged, the higher the score of what they make: so the merges come in their order."""
    merged = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in about["model"]["merges"])
    scores: dict[str, float] = {}
    for rank, pair in enumerate(merged):
        scores.setdefault("".join(pair), -float(rank))
    return scores


def _prefixed(about: Mapping[str, Any]) -> bool:
    """Whether a space is put before the text."""
    rules = [*_rules(about.get("normalizer")), *_rules(about.get("pre_tokenizer"))]
    return any(
        (rule["type"] == "Prepend" and rule.get("prepend") == SPACE)
        or (rule["type"] == "Metaspace" and rule.get("prepend_scheme", "always") != "never")
        for rule in rules
    )


def read_module(path: Path) -> nn.Module:
    """The module that answers as the file says; nothing of the checkpoint that it was made from is looked at."""
    reader = GGUFReader(path)
    config = read_config(reader)
    spec, parsed = Transformers.describe(config, ()), parsed_config(config)
    found = {tensor.name: tensor for tensor in reader.tensors}
    module = Transformers.skeleton(spec)
    weights: dict[str, Encoded] = {}
    for name in module.state_dict():
        theirs = their_name(name)
        if theirs in found:
            held, heads = found[theirs], permuted_heads(name, parsed)
            shape = tuple(int(size) for size in reversed(held.shape))
            part = None if heads or len(shape) != 2 else partial(floats_of, held)
            weights[name] = Dense(LazyTensor(shape, torch.float32, partial(_values, held, heads), part))
    built: Any = runnable(Model(weights, Transformers.ties(module), spec), SLOW_BYTES)
    if ROPE_FREQS in found:
        rotary = built.model.rotary_emb
        rotary.inv_freq = rotary.inv_freq / _values(found[ROPE_FREQS], 0)
    assert isinstance(built, nn.Module)
    return built


def _values(tensor: Any, heads: int) -> Tensor:
    """float32, in the order that transformers has."""
    shaped = floats_of(tensor, 0, len(tensor.data)).reshape([int(size) for size in reversed(tensor.shape)])
    return apart(shaped, heads) if heads else shaped
