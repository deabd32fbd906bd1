"""Real models as SavedModels, answered by TensorFlow: they keep their size and what the compressed model is worth."""

import pytest

INT8 = {"technique": "weight_quantization", "settings": {"bits": 8}}
FORMATS = ["safetensors", "savedmodel"]


def rows(run) -> dict[str, dict]:
    return {row["format"]: row for row in run["receipt"]["runtimes"]}


def test_embeddings_of_minilm(minilm, compressed):
    run, folder = compressed(minilm, INT8, exports=FORMATS)
    told = rows(run)["savedmodel"]
    assert told["metrics"]["cosine"]["value"] > 0.999
    assert (folder / "model.savedmodel.zip").stat().st_size == told["size_bytes"]
    assert told["size_bytes"] < 0.3 * run["baseline"]["size_bytes"]


@pytest.mark.parametrize(
    ("settings", "share"),
    [({"bits": 8}, 0.28), ({"bits": 4, "granularity": "group", "group_size": 64}, 0.2)],
    ids=["8 bits", "4 bits"],
)
def test_the_text_of_smollm2(smollm2, compressed, settings, share):
    run, _ = compressed(smollm2, {"technique": "weight_quantization", "settings": settings}, exports=FORMATS)
    own, served = rows(run)["safetensors"], rows(run)["savedmodel"]
    perplexity = served["metrics"]["perplexity"]["value"]
    assert perplexity == pytest.approx(own["metrics"]["perplexity"]["value"], rel=1e-3)
    assert served["size_bytes"] < share * run["baseline"]["size_bytes"]
