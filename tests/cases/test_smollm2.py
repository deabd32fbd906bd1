"""SmolLM2-135M-Instruct from its GGUF, judged by the perplexity of English prose."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REFERENCE = 27.33  # perplexity of the float32 model on this text, measured without Pare
HEAD = {"exclude": ["lm_head"]}


def perplexity_in_another_process(folder: Path, text: Path) -> float:
    script, environment = Path(__file__).with_name("score_perplexity.py"), dict(os.environ)
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, script, folder, text], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return float(done.stdout)


def perplexities(run) -> tuple[float, float]:
    return tuple(run[which]["metrics"]["perplexity"]["value"] for which in ("baseline", "result"))


def test_8_bits_cost_next_to_nothing(smollm2, compressed, prose):
    run, folder = compressed(smollm2, {"technique": "weight_quantization", "settings": {"bits": 8}})
    before, after = perplexities(run)
    assert before == pytest.approx(REFERENCE, abs=0.01)
    assert after == pytest.approx(before, rel=0.02)
    assert run["result"]["size_bytes"] < 0.26 * run["baseline"]["size_bytes"]
    assert (folder / "model.safetensors").stat().st_size == run["result"]["size_bytes"]
    assert perplexity_in_another_process(folder, prose) == pytest.approx(after, rel=1e-4)


def test_pruned_and_in_8_bits(smollm2, compressed):
    pruning = {"technique": "magnitude_pruning", "settings": {"sparsity": 0.3}, "layers": HEAD}
    run, _ = compressed(smollm2, pruning, {"technique": "weight_quantization", "settings": {"bits": 8}})
    before, after = perplexities(run)
    assert before < after
    assert 0.2 < run["result"]["sparsity"] < 0.31
    assert run["receipt"]["verdict"]["verdict"] == "worse"


def test_thin_factors_in_half_precision(smollm2, compressed):
    factors = {
        "technique": "low_rank",
        "settings": {"by": "ratio", "ratio": 0.8},
        "layers": {"include": ["*.down_proj"]},
    }
    run, _ = compressed(smollm2, factors, {"technique": "cast", "settings": {"dtype": "bfloat16"}})
    before, after = perplexities(run)
    assert before < after
    assert run["result"]["params_total"] < run["baseline"]["params_total"]
    assert run["result"]["size_bytes"] < 0.5 * run["baseline"]["size_bytes"]
