"""What the best public tool of each kind gave on these models, and the recipe of ours that stands beside it.

Calibration is on the first 32 × 512 tokens of the book (128 × 128 for the encoder), the scores on its last 30 %. CPU
seconds and peak memory are of the whole process, importing and loading included; compare seconds with care, machines
differ. MB is the file; where a public tool kept the embedding in float32, ours does too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Bar:
    """`best` has what the tool reached: perplexity, kl_divergence, agreement, cosine, spearman, cpu_s, peak_mb, mb.

    A step may have layers of its own.
    """

    title: str
    tool: str
    best: dict[str, float]
    steps: list[tuple[str, dict[str, Any]] | tuple[str, dict[str, Any], dict[str, Any]]]
    layers: dict[str, Any] = field(default_factory=dict)

    def recipe(self) -> list[dict[str, Any]]:
        return [
            {"technique": name, "settings": values, "layers": own[0] if own else self.layers}
            for name, values, *own in self.steps
        ]


def language(perplexity: float, kl: float, top1: float, **more: float) -> dict[str, float]:
    return {"perplexity": perplexity, "kl_divergence": kl, "agreement": top1, **more}


def encoder(cosine: float, spearman: float | None = None, **more: float) -> dict[str, float]:
    return {"cosine": cosine, **({"spearman": spearman} if spearman else {}), **more}


GROUPS_OF_64 = {"granularity": "group", "group_size": 64}
GROUPS_OF_128 = {"granularity": "group", "group_size": 128}
NO_HEAD = {"exclude": ["lm_head"]}
BLOCKS, HEAD = {"include": ["model.layers.*"]}, {"include": ["lm_head"]}
WHITENED = {"method": "whitened"}
HEALED = (
    "distillation",
    {"trains": "scales", "epochs": 0.7, "validation": 0.03, "temperature": 1.0, "hard_weight": 0.0},
)
NO_TOOL = "none, what was asked for"  # none is known that heals on a CPU in minutes

SMOLLM2 = [
    Bar(
        "magnitude 50 %",
        "wanda's reference",
        language(492, 3.01, 0.175, cpu_s=20, peak_mb=1008),
        [("magnitude_pruning", {"sparsity": 0.5})],
    ),
    Bar(
        "Wanda 50 %",
        "reference",
        language(51.5, 0.695, 0.578, cpu_s=149, peak_mb=1050),
        [("wanda", {"sparsity": 0.5})],
    ),
    Bar(
        "SparseGPT 50 %",
        "llm-compressor",
        language(43.3, 0.503, 0.637, cpu_s=240, peak_mb=1829),
        [("sparsegpt", {"sparsity": 0.5})],
    ),
    Bar(
        "SparseGPT 2:4",
        "llm-compressor",
        language(71.9, 1.021, 0.496, peak_mb=1629),
        [("sparsegpt", {"pattern": "2:4"})],
    ),
    Bar(
        "low rank, 80 % kept",
        "SVD-LLM",
        language(75.0, 1.118, 0.481, cpu_s=131, peak_mb=2417, mb=453),
        [("low_rank", {**WHITENED, "ratio": 0.8})],
    ),
    Bar(
        "low rank, 60 % kept",
        "SVD-LLM, updated",
        language(166.9, 1.906, 0.368, cpu_s=261, peak_mb=2454, mb=368),
        [("low_rank", {**WHITENED, "ratio": 0.6})],
    ),
    Bar(
        "low rank, 50 % kept",
        "SVD-LLM",
        language(515, 3.024, 0.219, cpu_s=127, peak_mb=2255, mb=325),
        [("low_rank", {**WHITENED, "ratio": 0.5})],
    ),
    Bar(
        "MLP width -20 %",
        "Torch-Pruning, Taylor",
        language(38.9, 0.395, 0.686, cpu_s=66, peak_mb=3500, mb=474),
        [("structured_pruning", {"ratio": 0.2, "importance": "reconstruction"})],
    ),
    Bar(
        "3 bits, groups of 64, no data",
        "torchao",
        language(154.6, 1.901, 0.301, cpu_s=7, peak_mb=1364, mb=228),
        [("weight_quantization", {"bits": 3, "symmetric": False, "scale": "search", **GROUPS_OF_64})],
        NO_HEAD,
    ),
    Bar(
        "3 bits, groups of 64, GPTQ",
        "GPTQModel",
        language(52.7, 0.684, 0.575, cpu_s=244, peak_mb=1197, mb=158),
        [("gptq", {"bits": 3, **GROUPS_OF_64})],
    ),
    Bar(
        "4 bits, groups of 128, GPTQ",
        "GPTQModel",
        language(34.8, 0.246, 0.741, peak_mb=1509, mb=169),
        [("gptq", {"bits": 4, **GROUPS_OF_128})],
    ),
    Bar(
        "int8 weights and activations",
        "torchao",
        language(28.06, 0.029, 0.900, cpu_s=7.5, peak_mb=1378, mb=220.5),
        [("dynamic_quantization", {})],
        NO_HEAD,
    ),
    Bar(
        "4 bits, embedding 8, whole file",
        "llama.cpp Q3_K_M",
        language(30.3, 0.125, 0.805, cpu_s=4.3, peak_mb=374, mb=93.5),
        [("gptq", {"bits": 4, **GROUPS_OF_64}, BLOCKS), ("weight_quantization", {"bits": 8}, HEAD)],
    ),
    Bar(
        "5 bits, embedding 8, whole file",
        "llama.cpp Q4_K_M",
        language(28.5, 0.051, 0.868, cpu_s=4.0, peak_mb=374, mb=105.5),
        [("gptq", {"bits": 5, **GROUPS_OF_64}, BLOCKS), ("weight_quantization", {"bits": 8}, HEAD)],
    ),
    Bar(
        "8 bits, whole file",
        "llama.cpp Q8_0",
        language(27.44, 0.0041, 0.961, peak_mb=374, mb=144.8),
        [("weight_quantization", {"bits": 8, "granularity": "group", "group_size": 32})],
    ),
    Bar(
        "int8 weights, embedding kept",
        "torchao",
        language(27.41, 0.0031, 0.963, cpu_s=7, peak_mb=1419, mb=220.5),
        [("weight_quantization", {"bits": 8})],
        NO_HEAD,
    ),
    Bar(
        "2 bits, groups of 32, GPTQ, healed",
        NO_TOOL,
        {"perplexity": 60, "cpu_s": 400},
        [("gptq", {"bits": 2, "granularity": "group", "group_size": 32}), HEALED],
    ),
    Bar(
        "2:4 + 4 bits, healed",
        NO_TOOL,
        {"perplexity": 45, "cpu_s": 400},
        [("sparsegpt", {"pattern": "2:4"}), ("weight_quantization", {"bits": 4, **GROUPS_OF_64}, BLOCKS), HEALED],
    ),
]
MINILM = [
    Bar(
        "magnitude 50 %",
        "reference",
        encoder(0.696, 0.757, cpu_s=7, peak_mb=544),
        [("magnitude_pruning", {"sparsity": 0.5})],
    ),
    Bar("Wanda 50 %", "reference", encoder(0.853, 0.867, cpu_s=20, peak_mb=601), [("wanda", {"sparsity": 0.5})]),
    Bar(
        "SparseGPT 50 %",
        "reference",
        encoder(0.899, 0.913, cpu_s=31, peak_mb=629),
        [("sparsegpt", {"sparsity": 0.5})],
    ),
    Bar(
        "SparseGPT 2:4", "reference", encoder(0.836, 0.862, cpu_s=31, peak_mb=641), [("sparsegpt", {"pattern": "2:4"})]
    ),
    Bar(
        "low rank, 80 % kept",
        "SVD-LLM",
        encoder(0.857, 0.894, cpu_s=25, peak_mb=820, mb=82.3),
        [("low_rank", {**WHITENED, "ratio": 0.8})],
    ),
    Bar(
        "low rank, 60 % kept",
        "SVD-LLM",
        encoder(0.767, 0.820, cpu_s=28, peak_mb=820, mb=73.8),
        [("low_rank", {**WHITENED, "ratio": 0.6})],
    ),
    Bar(
        "4 bits, groups of 128, GPTQ",
        "reference",
        encoder(0.950, 0.947, cpu_s=31, peak_mb=637),
        [("gptq", {"bits": 4, **GROUPS_OF_128})],
    ),
    Bar(
        "3 bits, groups of 128, GPTQ",
        "reference",
        encoder(0.828, 0.810, cpu_s=31, peak_mb=637),
        [("gptq", {"bits": 3, **GROUPS_OF_128})],
    ),
    Bar(
        "3 bits, groups of 64, no data",
        "HQQ",
        encoder(0.849, 0.883, cpu_s=10, peak_mb=625, mb=54),
        [("weight_quantization", {"bits": 3, "symmetric": False, "scale": "search", **GROUPS_OF_64})],
        {"exclude": ["*embeddings*"]},
    ),
    Bar(
        "int8 dynamic, per channel",
        "onnxruntime",
        encoder(0.9928, 0.9923, cpu_s=3.7, peak_mb=659, mb=22.8),
        [("dynamic_quantization", {})],
    ),
    Bar(
        "int8 static",
        "onnxruntime",
        encoder(0.932, 0.937, cpu_s=8.5, peak_mb=684, mb=58.6),
        [("static_quantization", {})],
        {"exclude": ["*embeddings*"]},
    ),
    Bar(
        "int8 weights",
        "torchao",
        encoder(0.9996, 0.9997, cpu_s=7, peak_mb=533, mb=59.2),
        [("weight_quantization", {"bits": 8})],
        {"exclude": ["*embeddings*"]},
    ),
]
