"""What a dataset's split becomes for a model, and whether the two fit at all."""

import pytest
import torch
from tokenizers import Tokenizer, models

from webapp.engine.architectures import architecture
from webapp.engine.data.batches import batches, outputs, synthetic
from webapp.engine.data.datasets import Arrays, LabelledText, Text, fit, without
from webapp.engine.data.questions import tokenized
from webapp.engine.errors import DatasetUnfit
from webapp.engine.facts import ArchitectureSpec, DatasetFacts, SplitFacts

LM = ArchitectureSpec(
    family="transformers", title="LM", task="causal-lm", config={}, inputs={"tokens": 24, "vocab": 40}
)
ENCODER = LM.model_copy(update={"task": "embedding"})
CNN = ArchitectureSpec(
    family="cnn", title="CNN", task="classification", config={"classes": 3}, inputs={"shape": [1, 8, 8]}
)
MLP = CNN.model_copy(update={"family": "sequential", "inputs": {"shape": [64]}})
SENTENCE = "the cat sat on a mat and ran."


@pytest.fixture
def tokenizer(tmp_path, save_tokenizer):
    save_tokenizer(tmp_path)
    return architecture(LM).tokenizer(LM, tmp_path)


def test_text_becomes_chunks_that_do_not_overlap(tokenizer):
    text = "the cat sat on a mat . " * 40
    ids = tokenizer(text, add_special_tokens=False).input_ids
    found = list(batches(Text(text), LM, tokenizer, limit=3))
    assert [batch.inputs["input_ids"].tolist() for batch in found] == [[ids[i : i + 24]] for i in (0, 24, 48)]
    assert all(batch.n == 1 for batch in found)


def test_text_shorter_than_a_chunk_is_one_and_a_single_token_is_nothing(tokenizer):
    (only,) = batches(Text("the cat sat"), LM, tokenizer, limit=20)
    assert only.inputs["input_ids"].shape == (1, 3)
    with pytest.raises(DatasetUnfit, match="shorter than two tokens"):
        list(batches(Text("the"), LM, tokenizer))


def test_sentences_of_6_to_60_words_are_embedded_in_batches_of_25(tokenizer):
    text = " ".join([SENTENCE, "too short.", *([SENTENCE] * 40), "long " * 61 + "."])
    found = list(batches(Text(text), ENCODER, tokenizer, limit=30))
    assert [batch.n for batch in found] == [25, 5]
    assert found[0].inputs["attention_mask"].shape == found[0].inputs["input_ids"].shape
    with pytest.raises(DatasetUnfit, match="no sentence of 6 to 60 words"):
        list(batches(Text("Short."), ENCODER, tokenizer))


def test_labelled_rows_are_padded_within_a_batch(tokenizer):
    spec = LM.model_copy(update={"task": "text-classification"})
    split = LabelledText(["the cat", "a good dog sat on the mat", "bad"], [0, 1, 1])
    (batch,) = batches(split, spec, tokenizer)
    assert batch.inputs["input_ids"].shape == (3, 7)
    assert batch.inputs["attention_mask"].sum(1).tolist() == [2, 7, 1]
    assert batch.targets.tolist() == [0, 1, 1]
    with pytest.raises(DatasetUnfit, match="without a tokenizer"):
        list(batches(split, spec, None))


def test_arrays_are_given_as_float32_in_batches():
    split = Arrays(torch.arange(40, dtype=torch.uint8).view(10, 4), torch.arange(10) % 3)
    found = list(batches(split, MLP, None, limit=7, batch_size=4))
    assert [batch.n for batch in found] == [4, 3]
    assert found[1].inputs["x"].dtype == torch.float32
    assert found[1].inputs["x"][-1].tolist() == [24, 25, 26, 27]
    assert found[1].targets.tolist() == [1, 2, 0]


def test_synthetic_inputs_are_the_same_for_the_same_seed():
    for spec in (LM, CNN, CNN.model_copy(update={"inputs": {"shape": [3, None, None]}})):
        one, same, other = (synthetic(spec, seed).inputs for seed in (1, 1, 2))
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert not all(torch.equal(one[name], other[name]) for name in one)


def test_embeddings_are_the_mean_of_the_tokens_that_are_there(tiny):
    model = tiny("BertModel", "bert")
    ids = torch.tensor([[4, 5, 6, 0], [4, 5, 6, 7]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    from webapp.engine.data.batches import Batch

    with torch.no_grad():
        found = outputs(model, ENCODER, Batch({"input_ids": ids, "attention_mask": mask}, None, 2))
        alone = model(ids[:1, :3]).last_hidden_state.mean(1)
    assert torch.allclose(found[:1], alone, atol=1e-6)


def test_samples_of_the_evaluation_are_taken_out_of_another_dataset():
    x = torch.randn(6, 3)
    left = without(Arrays(x, torch.arange(6)), Arrays(x[[1, 4]], None))
    assert left.y.tolist() == [0, 2, 3, 5]
    assert without(Text("a\n\nb\n\nc"), Text("b")).text == "a\n\nc"
    assert without(LabelledText(["a", "b "], [0, 1]), LabelledText(["b"], [0])).texts == ["a"]


def facts(kind, **more):
    return DatasetFacts(kind=kind, split="all", evaluation=SplitFacts(n=9, digest="0"), **more)


@pytest.mark.parametrize(
    ("spec", "dataset"),
    [
        (CNN, facts("arrays", sample_shape=(1, 8, 8), labels=("0", "1"))),
        (CNN.model_copy(update={"inputs": {"shape": [1, None, None]}}), facts("arrays", sample_shape=(1, 28, 28))),
        (MLP, facts("arrays", sample_shape=(1, 8, 8))),
        (LM, facts("text")),
        (ENCODER, facts("text")),
        (ENCODER, facts("labelled-text")),
    ],
)
def test_what_fits_is_accepted(spec, dataset):
    fit(spec, dataset)


@pytest.mark.parametrize(
    ("spec", "dataset", "sentence"),
    [
        (CNN, facts("arrays", sample_shape=(3, 8, 8)), r"shape \[3, 8, 8\]; CNN takes \[1, 8, 8\]"),
        (CNN, facts("arrays", sample_shape=(64,)), r"shape \[64\]; CNN takes"),
        (MLP, facts("arrays", sample_shape=(1, 9, 9)), r"shape \[1, 9, 9\]; CNN takes \[64\]"),
        (CNN, facts("arrays", sample_shape=(1, 8, 8), labels=("a", "b", "c", "d")), "4 labels; CNN answers with 3"),
        (CNN, facts("text"), "holds text; CNN is evaluated on an .npz"),
        (LM, facts("arrays", sample_shape=(3,)), "holds arrays; LM is evaluated on a .txt"),
        (LM.model_copy(update={"inputs": {**LM.inputs, "tokenizer": False}}), facts("text"), "without a tokenizer"),
        (CNN.model_copy(update={"task": None}), facts("text"), "holds text; CNN is evaluated on an .npz"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_sides(spec, dataset, sentence):
    with pytest.raises(DatasetUnfit, match=sentence):
        fit(spec, dataset)


def test_a_text_that_the_tokenizer_cannot_read_gets_a_sentence():
    from transformers import PreTrainedTokenizerFast

    """Of a tokenizer without a token for what is unknown, the library raises a bare Exception."""
    words = Tokenizer(models.Unigram([("a", -1.0), ("b", -1.0)]))
    assert tokenized(PreTrainedTokenizerFast(tokenizer_object=words), "ab")["input_ids"] == [0, 1]
    with pytest.raises(DatasetUnfit, match="has no token for something in the text"):
        tokenized(PreTrainedTokenizerFast(tokenizer_object=words), "ac")
