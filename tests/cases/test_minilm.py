"""all-MiniLM-L6-v2 from a zipped folder: embeddings, judged against the original's."""

import pytest


def against_the_original(run) -> dict[str, float]:
    return {name: metric["value"] for name, metric in run["result"]["metrics"].items()}


@pytest.mark.parametrize(
    ("steps", "least_cosine", "share"),
    [
        ([{"technique": "weight_quantization", "settings": {"bits": 8}}], 0.999, 0.27),
        (
            [
                {"technique": "magnitude_pruning", "settings": {"sparsity": 0.3}},
                {"technique": "weight_quantization", "settings": {"bits": 8}},
            ],
            0.9,
            0.27,
        ),
        (
            [
                {"technique": "low_rank", "settings": {"by": "energy", "energy": 0.9}},
                {"technique": "cast", "settings": {"dtype": "float16"}},
            ],
            0.5,
            0.5,
        ),
    ],
    ids=["8 bits", "pruned, 8 bits", "low rank, float16"],
)
def test_embeddings_stay_near(minilm, compressed, steps, least_cosine, share):
    run, folder = compressed(minilm, *steps)
    told = against_the_original(run)
    assert told["cosine"] > least_cosine
    assert 0 < told["spearman"] <= 1
    assert (folder / "model.safetensors").stat().st_size == run["result"]["size_bytes"]
    assert run["result"]["size_bytes"] < share * run["baseline"]["size_bytes"]
