"""The model types of transformers that are tried, tiny and random: class -> model type, config, task; and the trial."""

import json

import numpy as np
import torch

from tests.engine.run.test_stages import Bench as Run
from tests.zoo import ENCODER, write_tokenizer
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import outputs, synthetic
from webapp.engine.weights.model import Model

TEXT = {**ENCODER, "vocab_size": 40, "max_position_embeddings": 24}
DECODER = {**TEXT, "max_position_embeddings": 64, "num_key_value_heads": 1}
WIDENING = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}
CASES = {  # class -> model type, config, task
    "BertForTokenClassification": ("bert", TEXT, "token-classification"),
    "BertForMaskedLM": ("bert", TEXT, "masked-lm"),
    "DistilBertForSequenceClassification": (
        "distilbert",
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "vocab_size": 40, "max_position_embeddings": 24},
        "text-classification",
    ),
    "RobertaForTokenClassification": ("roberta", {**TEXT, "type_vocab_size": 1}, "token-classification"),
    "AlbertForSequenceClassification": ("albert", {**TEXT, "embedding_size": 8}, "text-classification"),
    "ElectraForSequenceClassification": ("electra", {**TEXT, "embedding_size": 8}, "text-classification"),
    "MPNetModel": ("mpnet", TEXT, "embedding"),
    "DebertaV2ForSequenceClassification": (
        "deberta-v2",
        {**TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
        "text-classification",
    ),
    "ModernBertForTokenClassification": (
        "modernbert",
        {**TEXT, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
        "token-classification",
    ),
    "LlamaForCausalLM": ("llama", DECODER, "causal-lm"),
    "Qwen2ForCausalLM": ("qwen2", DECODER, "causal-lm"),
    "Qwen3ForCausalLM": ("qwen3", {**DECODER, "head_dim": 8}, "causal-lm"),
    "Gemma2ForCausalLM": ("gemma2", {**DECODER, "head_dim": 8, "query_pre_attn_scalar": 8}, "causal-lm"),
    "Phi3ForCausalLM": ("phi3", {**DECODER, "pad_token_id": 0}, "causal-lm"),
    "GPT2LMHeadModel": (
        "gpt2",
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 24},
        "causal-lm",
    ),
    "GPTNeoXForCausalLM": ("gpt_neox", TEXT, "causal-lm"),
    "OPTForCausalLM": ("opt", {**TEXT, "ffn_dim": 24, "word_embed_proj_dim": 16}, "causal-lm"),
    "BloomForCausalLM": ("bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40}, "causal-lm"),
    "MixtralForCausalLM": ("mixtral", {**DECODER, "num_local_experts": 4}, "causal-lm"),
    "ViTForImageClassification": (
        "vit",
        {**ENCODER, "image_size": 8, "patch_size": 4, "num_channels": 3},
        "classification",
    ),
    "ConvNextForImageClassification": ("convnext", {**WIDENING, "image_size": 32}, "classification"),
    "ResNetForImageClassification": (
        "resnet",
        {**WIDENING, "embedding_size": 8, "layer_type": "basic"},
        "classification",
    ),
    "MobileViTForImageClassification": (
        "mobilevit",
        {
            "image_size": 64,
            "hidden_sizes": [12, 16, 24],
            "neck_hidden_sizes": [8, 8, 12, 16, 20, 24, 32],
            "num_attention_heads": 2,
        },
        "classification",
    ),
}
METRICS = {
    "token-classification": {"agreement", "kl_divergence"},
    "masked-lm": {"agreement", "kl_divergence"},
    "text-classification": {"accuracy", "agreement", "kl_divergence"},
    "embedding": {"cosine", "spearman"},
    "causal-lm": {"perplexity", "agreement", "kl_divergence"},
    "classification": {"accuracy", "agreement", "kl_divergence"},
}


def checkpoint_of(name, bench):
    """((folder, facts), model): a folder of this class, inspected, and the model that transformers has in memory."""
    import transformers

    model_type, config, _ = CASES[name]
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.AutoConfig.for_model(model_type, **config)).eval()
    model.save_pretrained(bench.root / "model")
    if "vocab_size" in config:
        write_tokenizer(bench.root / "model")
    facts = bench.checkpoint(bench.zip_folder(bench.root / "model"))
    return (bench.out, facts), model


def dataset(bench, spec):
    if spec.task == "classification":
        sides = [32 if size is None else size for size in spec.inputs["shape"]]
        x = np.random.default_rng(0).standard_normal((24, *sides), np.float32)
        np.savez(bench.root / "d.npz", x=x, y=np.arange(24) % 2)
        facts = bench.dataset(bench.root / "d.npz")
    elif spec.task == "text-classification":
        rows = ({"text": "the cat sat on the mat" + " ." * (n % 5), "label": n % 2} for n in range(24))
        facts = bench.dataset(bench.file("d.jsonl", "\n".join(map(json.dumps, rows))))
    else:
        facts = bench.dataset(
            bench.file("d.txt", "the cat sat on the mat . a good dog ran on the bad mat today .\n\n" * 30)
        )
    return bench.out, facts


def runs_and_is_proven(name, bench):
    """It answers as transformers' own does; pruned and quantized it is judged by its task's metrics, and proven."""
    (folder, facts), model = checkpoint_of(name, bench)
    spec = facts.architecture
    assert (spec.title, spec.task) == (name, CASES[name][2])
    batch = synthetic(spec, 0)
    with torch.inference_mode():
        ours = outputs(build(Model.of_checkpoint(folder, facts)), spec, batch)
        assert torch.allclose(ours, outputs(model, spec, batch), atol=1e-5)
    (bench.root / "run").mkdir()
    run = Run(bench.root / "run", (folder, facts), dataset(bench, spec))
    concluded = run.run(("magnitude_pruning", {"sparsity": 0.5}), ("weight_quantization", {"bits": 8}))
    assert concluded["receipt"]["proof"][0]["agreed"]
    assert set(concluded["result"]["metrics"]) == METRICS[spec.task]
    assert concluded["result"]["latency_ms"]["p50"] > 0
