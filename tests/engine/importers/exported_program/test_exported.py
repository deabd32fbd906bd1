"""Exported programs of every make: read as data, lifted into layers, and answering as torch's own module does."""

import json

import pytest
import torch

from tests.engine.importers.exported_program.exported import CASES, export, inspected
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import outputs, synthetic
from webapp.engine.weights.model import Model

FIXED = ("residual", "conv_embed_attend", "lstm")  # exported for batches of the example's size
LAYERS = {
    "mlp": ["0", "3"],
    "linear": ["linear"],
    "residual": ["stem.0", "block.0", "block.3", "down", "fc"],
    "functional": ["w_in", "turned", "up"],
    "conv_embed_attend": ["embedding", "conv", "attention.in_proj", "attention.out_proj", "head"],
    "lstm": [*(f"lstm.weight_{side}_l{n}" for n in (0, 1) for side in ("ih", "hh")), "out"],
    "conv3d": ["0", "4"],
}


def opened(name: str, fixed: bool = False):
    """(torch's own module, the facts, Pare's module)."""
    module, folder, facts = inspected(name, fixed)
    return module, facts, build(Model.of_checkpoint(folder, facts))


@pytest.mark.parametrize(("name", "fixed"), [*((name, False) for name in CASES), *((name, True) for name in FIXED)])
def test_it_answers_as_the_module_that_was_exported(name, fixed):
    module, facts, ours = opened(name, fixed)
    assert facts.weights_only_because is None
    batch = synthetic(facts.architecture, 1)  # of another size than the example
    expected = module(*batch.inputs.values())
    torch.testing.assert_close(outputs(ours, facts.architecture, batch), expected, rtol=1e-5, atol=1e-6)
    assert facts.architecture.task == ("causal-lm" if name == "gpt" else None)


@pytest.mark.parametrize("name", LAYERS)
def test_its_layers_are_found_under_their_names(name):
    module, facts, ours = opened(name)
    assert [layer.name for layer in facts.layers] == LAYERS[name]
    trained = sum(parameter.numel() for parameter in module.parameters())
    assert sum(parameter.numel() for parameter in ours.parameters()) == trained
    ours(*synthetic(facts.architecture, 0).inputs.values()).sum().backward()
    assert all(ours.get_parameter(layer.weight).grad is not None for layer in facts.layers)


def test_a_tied_head_is_stored_once():
    _, facts, ours = opened("gpt")
    assert facts.tied == {"head.weight": "tokens.weight"}
    assert ours.head.weight is ours.tokens.weight
    assert next(layer for layer in facts.layers if layer.name == "tokens").aliases == ("head",)


def test_dropout_comes_back_in_training():
    _, facts, ours = opened("mlp")
    (x,) = synthetic(facts.architecture, 0).inputs.values()
    assert torch.equal(ours(x), ours(x))
    assert not torch.equal(ours.train()(x), ours(x))


def test_weights_outputs_last_are_transposed_and_it_is_said():
    module, facts, ours = opened("functional")
    assert torch.equal(ours.turned.weight, module.turned.t())
    assert any("transposed" in note for note in facts.notes)
    assert any("w_in is w_in.weight" in note for note in facts.notes)


def test_it_can_be_exported_again():
    _, _, ours = opened("conv_embed_attend")
    ids = torch.randint(0, 60, (4, 9))
    again = torch.export.export(ours, (ids,), dynamic_shapes=(({0: torch.export.Dim("batch")},),))
    other = torch.randint(0, 60, (2, 9))
    torch.testing.assert_close(again.module()(other), ours(other))


def test_half_precision_runs_in_float32(bench, tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Tanh()).bfloat16()
    facts = bench.checkpoint(export(module, (torch.zeros(3, 8, dtype=torch.bfloat16),), tmp_path / "half.pt2"))
    ours = build(Model.of_checkpoint(bench.out, facts))
    x = torch.randn(5, 8)
    torch.testing.assert_close(ours(x), module.float()(x))


def test_decomposed_programs_are_lifted_too(bench, tmp_path):
    make, given, dynamic = CASES["residual"]
    module = make().eval()
    export(module, given, tmp_path / "core.pt2", dynamic, decomposed=True)
    facts = bench.checkpoint(tmp_path / "core.pt2")
    assert [layer.name for layer in facts.layers] == LAYERS["residual"]
    ours, x = build(Model.of_checkpoint(bench.out, facts)), torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(ours(x), module(x), rtol=1e-4, atol=1e-5)


def test_what_the_facts_hold_is_plain_json():
    _, facts, _ = opened("gpt")
    assert json.loads(json.dumps(facts.model_dump(mode="json"), allow_nan=False))


@pytest.mark.parametrize("model_type", [pytest.param("bert", marks=pytest.mark.slow), "llama", "gpt2"])
def test_models_of_transformers(bench, tiny, tmp_path, model_type):
    import transformers

    name = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}.get(model_type, "BertForSequenceClassification")
    module, ids = tiny(name, model_type), torch.randint(0, 40, (3, 7))
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=20)}
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    sizes = dict.fromkeys(given, free)
    if model_type != "bert":
        given, sizes = {**given, "use_cache": False}, {**sizes, "use_cache": None}
    facts = bench.checkpoint(export(module, (), tmp_path / "m.pt2", sizes, **given))
    ours = build(Model.of_checkpoint(bench.out, facts))
    batch = synthetic(facts.architecture, 1)
    torch.testing.assert_close(outputs(ours, facts.architecture, batch), module(**batch.inputs)["logits"])
    names = {name for layer in facts.layers for name in (layer.name, *layer.aliases)}
    kinds = (torch.nn.Linear, torch.nn.Embedding, transformers.pytorch_utils.Conv1D)
    assert names == {n for n, part in module.named_modules() if isinstance(part, kinds)}


def test_an_example_of_one_sample_does_not_fix_the_batch(bench, tiny, tmp_path):
    module, ids = tiny("BertForSequenceClassification", "bert"), torch.randint(0, 40, (1, 7))
    facts = bench.checkpoint(export(module, (ids,), tmp_path / "m.pt2", ()))
    ours = build(Model.of_checkpoint(bench.out, facts))
    batch = synthetic(facts.architecture, 1)
    expected = module(batch.inputs["input_ids"])["logits"]
    torch.testing.assert_close(outputs(ours, facts.architecture, batch), expected)
