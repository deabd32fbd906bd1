"""A zipped Hugging Face folder answers after inspection exactly as transformers' own loader makes it answer."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from webapp.engine.architectures import architecture


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    return path


def inputs_of(spec):
    if "shape" in spec.inputs:
        return {"pixel_values": torch.randn(2, *spec.inputs["shape"])}
    return {"input_ids": torch.randint(0, spec.inputs["vocab"], (2, 9))}


def rebuilt(bench, facts):
    module = architecture(facts.architecture).skeleton(facts.architecture)
    state = bench.tensors()
    assert {name for name, value in module.state_dict().items() if not value.is_meta} == set()
    assert all(not buffer.is_meta for _, buffer in module.named_non_persistent_buffers())
    module.load_state_dict(state, assign=True, strict=False)
    if facts.tied:
        module.tie_weights()
    assert not any(value.is_meta for value in module.state_dict().values())
    return module


def answer(module, inputs):
    with torch.no_grad():
        found = module(**inputs)
    return found["logits"] if "logits" in found else found["last_hidden_state"]


MODELS = [
    ("GPT2LMHeadModel", "gpt2", {}, "causal-lm"),
    ("LlamaForCausalLM", "llama", {"tie_word_embeddings": True}, "causal-lm"),
    ("LlamaForCausalLM", "llama", {"tie_word_embeddings": False}, "causal-lm"),
    ("BertModel", "bert", {}, "embedding"),
    ("BertForSequenceClassification", "bert", {"num_labels": 3}, "text-classification"),
    ("RobertaModel", "roberta", {}, "embedding"),
    ("ViTForImageClassification", "vit", {"num_labels": 5}, "classification"),
]


@pytest.mark.parametrize(("class_name", "model_type", "changes", "task"), MODELS)
def test_it_answers_bit_for_bit_as_from_pretrained(bench, folder, class_name, model_type, changes, task, tiny):
    model = tiny(class_name, model_type, **changes)
    model.save_pretrained(folder)
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert (facts.format, facts.architecture.title, facts.architecture.task) == ("huggingface", class_name, task)
    assert all("converted" in note for note in facts.notes) if model_type == "vit" else facts.notes == ()
    inputs = inputs_of(facts.architecture)
    assert torch.equal(answer(rebuilt(bench, facts), inputs), answer(model, inputs))
    again = type(model).from_pretrained(bench.out)  # the normalised folder is one that others read too
    assert torch.equal(answer(again, inputs), answer(model, inputs))


def test_tied_tensors_are_stored_once_and_are_one_layer(bench, folder, tiny):
    model = tiny("LlamaForCausalLM", "llama", tie_word_embeddings=True)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert facts.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    assert "lm_head.weight" not in bench.tensors()
    embedding = next(layer for layer in facts.layers if layer.name == "model.embed_tokens")
    assert (embedding.kind, embedding.aliases) == ("embedding", ("lm_head",))
    assert "lm_head" not in [layer.name for layer in facts.layers]
    assert facts.params_total == sum(p.numel() for p in model.parameters())


def test_a_head_saved_without_its_embedding_is_named_as_the_library_ties_it(bench, folder, tiny):
    tiny("LlamaForCausalLM", "llama", tie_word_embeddings=True).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, folder / "model.safetensors")
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert "model.embed_tokens.weight" in bench.tensors()
    assert facts.tied == {"lm_head.weight": "model.embed_tokens.weight"}


def test_tensors_that_the_config_ties_and_that_differ_are_both_kept(bench, folder, tiny):
    model = tiny("LlamaForCausalLM", "llama", tie_word_embeddings=False)
    model.config.tie_word_embeddings = True
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = model.lm_head.weight.detach()
    save_file(tensors, folder / "model.safetensors")
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert facts.tied == {}
    assert "differ although the config ties them" in facts.notes[0]
    model.config.tie_word_embeddings = False
    inputs = inputs_of(facts.architecture)
    assert torch.equal(answer(rebuilt(bench, facts), inputs), answer(model, inputs))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("index", [True, False])
def test_shards_are_put_together(bench, folder, kind, index, tiny):
    model = tiny("GPT2LMHeadModel", "gpt2")
    model.save_pretrained(folder, max_shard_size="10KB")
    shards = sorted(folder.glob("*-of-*.safetensors"))
    assert len(shards) > 1
    if kind == "bin":
        weight_map = {}
        for number, shard in enumerate(shards, 1):
            name = f"pytorch_model-{number:05}-of-{len(shards):05}.bin"
            torch.save(load_file(shard), folder / name)
            weight_map |= dict.fromkeys(load_file(shard), name)
            shard.unlink()
        (folder / "model.safetensors.index.json").unlink()
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    if not index:
        next(folder.glob("*.index.json")).unlink()
    facts = bench.checkpoint(bench.zip_folder(folder))
    inputs = inputs_of(facts.architecture)
    assert torch.equal(answer(rebuilt(bench, facts), inputs), answer(model, inputs))
    missing = sorted(folder.glob("*-of-*"))[1]
    missing.unlink()
    assert f"lacks {missing.name}" in bench.refusal(bench.zip_folder(folder, "short.zip"))


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16"), (torch.float64, "float64")]
)
def test_the_dtype_of_the_upload_is_kept(bench, folder, dtype, name, tiny):
    model = tiny("BertModel", "bert").to(dtype)
    model.save_pretrained(folder)
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert set(facts.dtypes) == {name}
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in bench.tensors().items())


def test_a_base_model_is_found_under_the_prefix_of_its_head(bench, folder, tiny):
    headed = tiny("BertForSequenceClassification", "bert")
    headed.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert facts.architecture.title == "BertModel"
    assert any("does not use" in note and "classifier" in note for note in facts.notes)
    inputs = inputs_of(facts.architecture)
    assert torch.equal(answer(rebuilt(bench, facts), inputs), answer(headed.bert, inputs))


def test_an_encoder_without_a_pooler_is_built_without_one(bench, folder, tiny):
    model = tiny("BertModel", "bert")
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "pooler" not in k}, folder / "model.safetensors")
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert not any("pooler" in layer.name for layer in facts.layers)
    inputs = inputs_of(facts.architecture)
    assert torch.equal(answer(rebuilt(bench, facts), inputs), answer(model, inputs))


def test_the_names_of_older_versions_are_converted(bench, folder, tiny):
    model = tiny("BertModel", "bert")
    model.save_pretrained(folder)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(old, folder / "model.safetensors", {"format": "pt"})
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert any("converted" in note for note in facts.notes)
    inputs = inputs_of(facts.architecture)
    assert torch.equal(answer(rebuilt(bench, facts), inputs), answer(model, inputs))


def test_buffers_that_older_versions_saved_are_passed_over_silently(bench, folder, tiny):
    tiny("GPT2LMHeadModel", "gpt2").save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert facts.notes == ()
    assert "transformer.h.0.attn.masked_bias" not in bench.tensors()


def test_the_linear_layers_of_gpt2_are_known_to_be_transposed(bench, folder, tiny):
    tiny("GPT2LMHeadModel", "gpt2").save_pretrained(folder)
    facts = bench.checkpoint(bench.zip_folder(folder))
    layers = {layer.name: layer for layer in facts.layers}
    assert (layers["transformer.h.0.attn.c_attn"].kind, layers["transformer.h.0.attn.c_attn"].transposed) == (
        "linear",
        True,
    )
    assert layers["transformer.h.0.attn.c_attn"].shape == (16, 48)
    assert layers["transformer.wte"].aliases == ("lm_head",)


def test_the_tokenizer_comes_along_and_is_said_to(bench, folder, tiny, save_tokenizer):
    tiny("BertForSequenceClassification", "bert").save_pretrained(folder)
    save_tokenizer(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert facts.architecture.inputs == {"tokens": 24, "vocab": 40, "tokenizer": True}
    tokenizer = architecture(facts.architecture).tokenizer(facts.architecture, bench.out)
    assert tokenizer("the cat sat").input_ids == [4, 6, 8]
    assert (bench.out / "1_Pooling" / "config.json").exists()
    without = bench.checkpoint(bench.zip_folder(folder, "b.zip"), "b.zip")
    assert without == facts  # inspection is deterministic


def test_a_broken_tokenizer_is_left_out_with_a_note(bench, folder, tiny, save_tokenizer):
    tiny("BertForSequenceClassification", "bert").save_pretrained(folder)
    save_tokenizer(folder)
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nonsense"}}')
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert facts.architecture.inputs["tokenizer"] is False
    assert any("tokenizer cannot be read" in note for note in facts.notes)
    assert not list(bench.out.glob("token*"))


def test_remote_code_is_never_run(bench, folder, tiny, save_tokenizer):
    tiny("BertModel", "bert").save_pretrained(folder)
    save_tokenizer(folder)
    evil = f"open({str(bench.root / 'ran')!r}, 'w').write('x')"
    (folder / "evil.py").write_text(evil)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["evil.Tokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert any("never run" in note for note in facts.notes)
    assert facts.architecture.title == "BertModel"
    assert not (bench.root / "ran").exists()
    assert not (bench.out / "evil.py").exists()
    assert "auto_map" not in (bench.out / "config.json").read_text()
    config |= {"model_type": "evil", "architectures": ["Evil"]}
    (folder / "config.json").write_text(json.dumps(config))
    facts = bench.checkpoint(bench.zip_folder(folder, "b.zip"))
    assert facts.architecture is None
    assert 'no model type "evil"' in facts.weights_only_because
    assert facts.layers


def test_a_tokenizer_class_of_its_own_is_not_looked_for(bench, folder, tiny, save_tokenizer):
    tiny("BertForSequenceClassification", "bert").save_pretrained(folder)
    save_tokenizer(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"tokenizer_class": "os.system"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert facts.architecture.inputs["tokenizer"] in (True, False)
