"""Two files of a folder that contradict each other are told at upload, and a run has a sentence for the rest."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.engine.importers.model_types import DECODER
from tests.engine.run.test_stages import Bench as Run
from webapp.engine.architectures import architecture
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import batches, outputs, synthetic
from webapp.engine.data.datasets import LabelledText, fit
from webapp.engine.errors import DatasetUnfit
from webapp.engine.weights.model import Model

GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 64}
DECODERS = {  # with a head for whole texts
    "LlamaForSequenceClassification": ("llama", DECODER),
    "GPT2ForSequenceClassification": ("gpt2", GPT2),
}
BY_IDS = {  # whose tokenizers are of one kind only, which the tests' is not
    "Qwen2ForSequenceClassification": ("qwen2", DECODER),
    "Qwen3ForSequenceClassification": ("qwen3", {**DECODER, "head_dim": 8}),
    "Gemma2ForSequenceClassification": ("gemma2", {**DECODER, "head_dim": 8, "query_pre_attn_scalar": 8}),
}
MORE_DECODERS = {
    "MistralForSequenceClassification": ("mistral", DECODER),
    "MixtralForSequenceClassification": ("mixtral", {**DECODER, "num_local_experts": 4}),
    "Phi3ForSequenceClassification": ("phi3", DECODER),
    "GPTNeoXForSequenceClassification": ("gpt_neox", DECODER),
    "OPTForSequenceClassification": ("opt", {**DECODER, "ffn_dim": 24, "word_embed_proj_dim": 16}),
    "BloomForSequenceClassification": ("bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40}),
}
TEXTS = ["the cat", "a good dog ran on the mat .", "the", "the cat sat on the mat ."] * 3


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def decoder(name, folder, save_tokenizer, pad_token_id=None):
    import transformers

    model_type, config = (DECODERS | BY_IDS | MORE_DECODERS)[name]
    torch.manual_seed(0)
    made = transformers.AutoConfig.for_model(model_type, **config, num_labels=3, pad_token_id=pad_token_id)
    model = getattr(transformers, name)(made).eval()
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


def labelled(bench):
    rows = ({"text": text, "label": n % 3} for n, text in enumerate(TEXTS * 2))
    facts = bench.dataset(bench.file("d.jsonl", "\n".join(map(json.dumps, rows))))
    return bench.out, facts


def test_a_vocabulary_beyond_the_embedding_is_told_with_both_sizes(bench, folder, tiny, save_tokenizer):
    tiny("LlamaForCausalLM", "llama", vocab_size=10).save_pretrained(folder)
    save_tokenizer(folder)
    facts = bench.checkpoint(bench.zip_folder(folder))
    note = next(note for note in facts.notes if "tokenizer" in note)
    assert note.startswith("Its tokenizer has 15 tokens, numbered up to 14, and its embedding 10 rows: they are of two")
    assert facts.architecture.inputs["tokenizer"] is False
    assert not list(bench.out.glob("token*"))
    text = bench.dataset(bench.file("d.txt", "the cat sat on the mat .\n\n" * 30))
    with pytest.raises(DatasetUnfit, match="came without a tokenizer"):
        fit(facts.architecture, text)


def test_tokens_that_were_added_and_never_trained_are_noted_and_a_text_with_one_is_refused(bench, folder, tiny):
    from transformers import AutoTokenizer

    from tests.zoo import write_tokenizer

    tiny("BertForSequenceClassification", "bert", vocab_size=15).save_pretrained(folder)
    write_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    facts = bench.checkpoint(bench.zip_folder(folder))
    spec = facts.architecture
    assert any('its embedding 15 rows: texts that hold "<new>", "<pad>" cannot be read' in note for note in facts.notes)
    assert spec.inputs["tokenizer"] is True
    read = architecture(spec).tokenizer(spec, bench.out)
    (batch,) = batches(LabelledText(["the cat sat", "the cat"], [0, 1]), spec, read)  # padded with <pad>
    assert torch.isfinite(outputs(build(Model.of_checkpoint(bench.out, facts)), spec, batch)).all()
    with pytest.raises(
        DatasetUnfit, match="holds the token 15, and the embedding of BertForSequenceClassification has 15"
    ):
        list(batches(LabelledText(["the <new> cat"], [0]), spec, read))


def classifies_without_padding(bench, folder, save_tokenizer, name, exports):
    model = decoder(name, folder, save_tokenizer)
    facts = bench.checkpoint(bench.zip_folder(folder))
    checkpoint, spec = (bench.out, facts), facts.architecture
    assert spec.task == "text-classification"
    read = architecture(spec).tokenizer(spec, bench.out)
    ours = build(Model.of_checkpoint(bench.out, facts))
    for batch in batches(LabelledText(TEXTS, None), spec, read):
        assert torch.allclose(outputs(ours, spec, batch), model(**batch.inputs).logits, atol=1e-5)
    (bench.root / "run").mkdir()
    run = Run(bench.root / "run", checkpoint, labelled(bench), exports)
    concluded = run.run(("weight_quantization", {"bits": 8}))
    assert all(proof["agreed"] for proof in concluded["receipt"]["proof"])
    assert len(concluded["receipt"]["proof"]) == len(exports)
    assert concluded["result"]["metrics"]["accuracy"]["n"] == 8


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize(
    "name", ["GPT2ForSequenceClassification", pytest.param("LlamaForSequenceClassification", marks=pytest.mark.slow)]
)
def test_a_decoder_that_classifies_without_a_padding_token_is_judged(bench, folder, save_tokenizer, name):
    exports = ("safetensors", "onnx", "compressed_tensors") if name.startswith("Llama") else ("safetensors",)
    classifies_without_padding(bench, folder, save_tokenizer, name, exports)


@pytest.mark.parametrize("name", [*DECODERS, *BY_IDS])
def test_several_rows_are_answered_as_each_alone(bench, folder, save_tokenizer, name):
    model = decoder(name, folder, save_tokenizer)
    facts = bench.checkpoint(bench.zip_folder(folder))
    batch = synthetic(facts.architecture, 0)
    found = outputs(build(Model.of_checkpoint(bench.out, facts)), facts.architecture, batch)
    alone = [model(input_ids=row[None]).logits for row in batch.inputs["input_ids"]]
    assert torch.allclose(found, torch.cat(alone), atol=1e-5)


def test_a_text_of_which_the_tokenizer_makes_no_token_is_named(bench, folder, save_tokenizer):
    decoder("LlamaForSequenceClassification", folder, save_tokenizer)
    facts = bench.checkpoint(bench.zip_folder(folder))

    def empty(texts, **_):
        return {"input_ids": torch.zeros(1, 0, dtype=torch.int64), "attention_mask": torch.zeros(1, 0)}

    empty.pad_token = None
    with pytest.raises(DatasetUnfit, match='makes no token of "the cat"'):
        list(batches(LabelledText(["the cat"], None), facts.architecture, empty))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("name", MORE_DECODERS)
def test_more_decoders_that_classify_without_a_padding_token(bench, folder, save_tokenizer, name):
    classifies_without_padding(bench, folder, save_tokenizer, name, ("safetensors", "onnx", "program"))


def test_a_tokenizer_that_pads_with_another_token_pads_nothing(bench, folder, save_tokenizer):
    model = decoder("LlamaForSequenceClassification", folder, save_tokenizer, pad_token_id=3)  # the tokenizer's is 0
    facts = bench.checkpoint(bench.zip_folder(folder))
    spec = facts.architecture
    read = architecture(spec).tokenizer(spec, bench.out)
    found = list(batches(LabelledText(TEXTS, None), spec, read))
    assert len(found) == len(TEXTS)
    ours = build(Model.of_checkpoint(bench.out, facts))
    alone = [model(**read([text], return_tensors="pt")).logits for text in TEXTS]
    assert torch.allclose(torch.cat([outputs(ours, spec, batch) for batch in found]), torch.cat(alone), atol=1e-5)


def test_a_shard_left_over_is_told_apart_from_all_that_the_index_names(bench, folder, tiny):
    model = tiny("LlamaForCausalLM", "llama")
    model.save_pretrained(folder, max_shard_size="6KB")
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 3
    save_file({"x": torch.ones(2)}, folder / "model-00099-of-00099.safetensors")
    facts = bench.checkpoint(bench.zip_folder(folder))
    said = f"those of {len(shards)} files, {shards[0]} to {shards[-1]}, which model.safetensors.index.json names; "
    assert any(said + "left aside: model-00099-of-00099.safetensors." in note for note in facts.notes)


def test_a_shard_that_lacks_what_the_index_says_is_named(bench, folder, tiny):
    tiny("LlamaForCausalLM", "llama").save_pretrained(folder, max_shard_size="6KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shard = next(iter(index["weight_map"].values()))
    index["weight_map"]["odd.weight"] = shard
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"odd.weight should be in {shard} by the index" in bench.refusal(bench.zip_folder(folder))


def test_of_two_sets_of_shards_without_an_index_the_whole_one_is_read(bench, folder, tiny):
    tiny("LlamaForCausalLM", "llama").save_pretrained(folder, max_shard_size="6KB")
    (folder / "model.safetensors.index.json").unlink()
    save_file({"x": torch.ones(2)}, folder / "model-00001-of-00002.safetensors")
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert facts.architecture.title == "LlamaForCausalLM"
    assert any("left aside: model-00001-of-00002.safetensors" in note for note in facts.notes)


def test_a_config_of_a_larger_model_is_told_with_both_sizes(bench, folder, tiny):
    tiny("LlamaForCausalLM", "llama").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    (folder / "config.json").write_text(json.dumps(config | sizes | {"head_dim": 128}))
    said = bench.refusal(bench.zip_folder(folder))
    assert (
        "has shape [40, 16]; LlamaForCausalLM by its config.json expects [40, 4096]" in said or "parameters in" in said
    )
