"""Formats of a run, stage by stage: each artifact with its size, proof and notes on the receipt."""

import pytest

from tests.engine.run.test_stages import Bench as Stages

INT8 = ("weight_quantization", {"bits": 8})


@pytest.fixture
def language_model(zoo):
    return zoo.checkpoint("llama")


@pytest.fixture
def prose(bench):
    facts = bench.dataset(bench.file("d.txt", "the cat sat on the mat . a good dog ran . " * 40), "all")
    return bench.out, facts


def test_a_language_model_in_gguf_and_as_a_transformers_folder(tmp_path, language_model, prose):
    stages = Stages(tmp_path, language_model, prose, exports=("safetensors", "compressed_tensors", "gguf"))
    concluded = stages.run(INT8)
    receipt = concluded["receipt"]
    proven = dict.fromkeys(proof["artifact"] for proof in receipt["proof"])  # of the GGUF perhaps in llama.cpp too
    assert [*proven] == ["model.safetensors", "transformers.zip", "model.gguf"]
    assert all(proof["agreed"] for proof in receipt["proof"])
    own, folder, gguf = receipt["runtimes"]
    assert gguf["size_bytes"] == (stages.folders["export-gguf"] / "model.gguf").stat().st_size
    assert gguf["result"] is None, "llama.cpp is not here to be timed"
    assert folder["result"]["p50"] > 0
    assert gguf["metrics"]["perplexity"]["n"] == own["metrics"]["perplexity"]["n"]
    # llama.cpp, where it is there, multiplies inputs of 8 bits
    assert gguf["metrics"]["perplexity"]["value"] == pytest.approx(own["metrics"]["perplexity"]["value"], rel=1e-2)
    assert any("takes token ids only" in note for note in gguf["notes"]), "its tokenizer is one of whole words"
    assert any("rounding moves" in note for note in folder["notes"]), "its embedding is kept in 16 bits"
    assert {"gguf", "compressed-tensors"} <= set(receipt["provenance"]["versions"])


def test_a_network_as_an_exported_program(tmp_path, mlp):
    stages = Stages(tmp_path, mlp, exports=("safetensors", "program"))
    receipt = stages.run(("low_rank", {"ratio": 0.5}), INT8)["receipt"]
    assert receipt["proof"][1]["loaded_by"].startswith("torch.export.load")
    assert "weights as integers" in receipt["runtimes"][1]["notes"][0]
    assert (stages.folders["original-program"] / "model.pt2").exists()
