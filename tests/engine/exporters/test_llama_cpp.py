"""llama.cpp itself runs the GGUF files that a run delivers: near to their values, with figures of its own."""

import pytest
import torch

from tests import zoo
from tests.engine.importers.tiny_gguf import model_of, write_gguf
from tests.engine.run.test_stages import Bench
from webapp.engine.errors import ArtifactUnproven
from webapp.engine.exporters import exporters
from webapp.engine.exporters.gguf import llama_cpp
from webapp.engine.exporters.gguf.llama_cpp import AT_ONCE, LlamaCpp
from webapp.engine.recipe import Recipe
from webapp.engine.run.proof import compare_native, write_proof
from webapp.engine.run.receipt_text import render_text
from webapp.engine.run.stages import RunGiven, plan_stages
from webapp.engine.weights.model import Model

CLOSE = 0.1  # of a logit, where llama.cpp multiplies floats, and keeps keys and values in half precision


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_it_answers_as_the_model_that_the_file_was_written_of(tmp_path, name):
    """Texts of several lengths, one of them longer than what is decoded at once, in turn."""
    model = model_of(name, max_position_embeddings=1024)
    native = LlamaCpp(write_gguf(tmp_path / "tiny.gguf", model, name))
    for length in (3, AT_ONCE + 40, 9):
        ids = torch.randint(0, 64, (2, length), generator=torch.Generator().manual_seed(length))
        with torch.no_grad():
            expected = model(ids).logits
        found = native.module(input_ids=ids)["logits"]
        assert found.shape == expected.shape
        assert float((found - expected).abs().max()) < CLOSE
        assert float((found - expected).abs().mean()) < CLOSE / 20


def test_a_file_that_it_does_not_load_is_named_with_its_reason(tmp_path):
    (tmp_path / "odd.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ArtifactUnproven, match=r"^llama\.cpp does not load odd\.gguf\. .+"):
        LlamaCpp(tmp_path / "odd.gguf")
    path = write_gguf(tmp_path / "less.gguf", model_of("llama"), drop=("blk.1.ffn_up.weight",))
    with pytest.raises(ArtifactUnproven, match=r"blk\.1\.ffn_up\.weight"):
        LlamaCpp(path)


def test_memory_that_it_does_not_get_is_told_as_such(tmp_path, monkeypatch):
    """So that the stage is done again with more. What its logger is given is what it says under a limit."""
    native = LlamaCpp(write_gguf(tmp_path / "tiny.gguf", model_of("llama"), "llama"))

    def refused(*_):
        llama_cpp._hear(4, b"ggml_gallocr_reserve_n_impl: failed to allocate CPU buffer of size 5263360\n", None)

    monkeypatch.setattr(llama_cpp.llama(), "llama_init_from_model", refused)
    with pytest.raises(MemoryError, match=r"makes no context of 9 tokens for tiny\.gguf\..*failed to allocate"):
        native.logits(torch.arange(9))


@pytest.fixture
def language_model(bench):
    """Inspected, with a tokenizer, and a text."""
    zoo.build_tiny("LlamaForCausalLM", "llama", hidden_size=64).save_pretrained(bench.root / "llama")
    zoo.write_tokenizer(bench.root / "llama")
    facts = bench.checkpoint(bench.root / "llama", in_place=True)
    folder = bench.out
    dataset = bench.dataset(bench.file("text.txt", "a b ab ba aab " * 400))
    return (folder, facts), (bench.out, dataset)


def test_the_proof_compares_it_with_the_values_in_the_file(language_model, tmp_path):
    (folder, facts), _ = language_model
    form, model = exporters()["gguf"], Model.of_checkpoint(folder, facts)
    form.write(model, tmp_path)
    write_proof(model, tmp_path, 0)
    loaded = form.load(tmp_path, facts.architecture)
    proof = compare_native(loaded.native(), loaded, facts.architecture, tmp_path)
    assert proof["agreed"]
    assert proof["max_abs_difference"] < 1e-4
    zoo_model = model_of("llama", vocab_size=facts.architecture.inputs["vocab"])
    other = LlamaCpp(write_gguf(tmp_path / "other.gguf", zoo_model))
    proof = compare_native(other, loaded, facts.architecture, tmp_path)
    assert not proof["agreed"]
    assert proof["max_abs_difference"] > proof["tolerance"]


def test_perplexity_and_tokens_per_second_on_the_receipt_are_its_own(language_model, tmp_path):
    run = Bench(tmp_path, *language_model, exports=("gguf",))
    step = {"technique": "ggml_quantization", "settings": {"type": "Q4_0", "pure": True}}
    asked = RunGiven(recipe=Recipe.read({"steps": [step]}), exports=("gguf",))
    for stage in plan_stages(asked).values():
        run.do(stage)
    receipt = run.concluded(("ggml_quantization", step["settings"]))["receipt"]
    row = next(row for row in receipt["runtimes"] if row["format"] == "gguf")
    threads = torch.get_num_threads()
    assert row["runtime"].startswith("llama.cpp (xllamacpp ")
    assert row["tokens_per_second"]["threads"] == threads
    assert row["tokens_per_second"]["prompt"] > 0
    assert row["tokens_per_second"]["generation"] > 0
    ours = receipt["runtimes"][0]["metrics"]["perplexity"]["value"]
    theirs = row["metrics"]["perplexity"]["value"]
    assert theirs != ours
    assert abs(theirs / ours - 1) < 0.05
    proofs = [row for row in receipt["proof"] if row["artifact"] == "model.gguf"]
    assert [proof["agreed"] for proof in proofs] == [True, True]
    assert "nats of mean KL divergence" in proofs[1]["unit"]
    said = render_text(receipt)
    assert "nats of mean KL divergence from the file's values, 0.1 allowed" in said
    assert "tokens per second of 256 that are read together, and" in said


def test_where_it_is_not_installed_the_proof_says_so(language_model, tmp_path, monkeypatch):
    (folder, facts), _ = language_model
    form = exporters()["gguf"]
    form.write(Model.of_checkpoint(folder, facts), tmp_path)
    monkeypatch.setattr("webapp.engine.exporters.gguf.missing", lambda: "not there")
    loaded = form.load(tmp_path, facts.architecture)
    assert loaded.native is None
    assert loaded.runtime.endswith("; llama.cpp itself was not run")
