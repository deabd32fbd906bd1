"""GPTQ of a table that is embedding and head: the head's answers are nearer than after rounding to nearest."""

import pytest
import torch

from tests.zoo import seeded_batches
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import outputs
from webapp.engine.errors import RecipeInvalid
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import match_layers, predict
from webapp.engine.techniques import gptq
from webapp.engine.techniques.calibration import sequential_calibration
from webapp.engine.weights import Quantized

TABLE = "transformer.wte.weight"
ONLY = {"include": ["transformer.wte"]}


def answers(model, data):
    module = build(model)
    with torch.no_grad():
        return torch.cat([outputs(module, model.architecture, batch).flatten() for batch in data.batches])


@pytest.fixture(params=["float32", "bfloat16"])
def tied(zoo, request):
    checkpoint = zoo.checkpoint("gpt2", request.param)
    return checkpoint, seeded_batches(checkpoint[1].architecture, 8)


@pytest.mark.parametrize("values", [{"bits": 3}, {"bits": 4, "numbers": "fitted"}])
def test_answers_are_nearer_than_roundings(tied, apply_steps, values):
    checkpoint, data = tied
    start, _ = apply_steps(checkpoint, data=data)
    expected, errors = answers(start, data), {}
    for name in ("weight_quantization", "gptq"):
        step = (name, {**values, **({"tied": True} if name == "gptq" else {})}, {"include": ["lm_head"]})
        model, outcomes = apply_steps(checkpoint, step, data=data)
        assert [outcome.layer for outcome in outcomes] == ["transformer.wte"]
        assert all(outcome.ok for outcome in outcomes)
        assert isinstance(model.weights[TABLE], Quantized)
        errors[name] = float((answers(model, data) - expected).square().sum())
    assert errors["gptq"] < 0.9 * errors["weight_quantization"]


def test_the_file_is_as_predicted_and_the_head_stays_tied(tied, apply_steps):
    checkpoint, data = tied
    settings = {"bits": 4, "granularity": "channel", "tied": True}
    model, _ = apply_steps(checkpoint, ("gptq", settings, ONLY), data=data)
    recipe = Recipe.read({"steps": [{"technique": "gptq", "settings": settings, "layers": ONLY}]})
    assert predict(checkpoint[1], recipe).kinds == ["dense", "quantized"]
    assert model.tied == checkpoint[1].tied
    assert sorted(name for name, encoded in model.weights.items() if isinstance(encoded, Quantized)) == [TABLE]


def test_some_rows_at_a_time_give_the_same_codes(tied, apply_steps, monkeypatch):
    checkpoint, data = tied
    whole, _ = apply_steps(checkpoint, ("gptq", {"bits": 3, "tied": True}, ONLY), data=data)
    monkeypatch.setattr(gptq, "AT_A_TIME", 7)
    parts, _ = apply_steps(checkpoint, ("gptq", {"bits": 3, "tied": True}, ONLY), data=data)
    torch.testing.assert_close(parts.weights[TABLE].decode(), whole.weights[TABLE].decode())


def test_the_model_runs_block_by_block(tied, apply_steps, monkeypatch):
    filled = []
    fill = sequential_calibration.fill
    monkeypatch.setattr(sequential_calibration, "fill", lambda *given: (filled.append(given[2]), fill(*given)))
    checkpoint, data = tied
    apply_steps(checkpoint, ("gptq", {"bits": 4, "tied": True}, ONLY), data=data)
    both = [names for names in filled if all(any(f".h.{block}." in name for name in names) for block in (0, 1))]
    assert len(filled) > 2
    assert not both


def test_a_step_is_not_for_it_unless_that_is_asked(tied, apply_steps):
    checkpoint, data = tied
    model, outcomes = apply_steps(checkpoint, ("gptq", {"bits": 4}), data=data)
    assert not isinstance(model.weights[TABLE], Quantized)
    assert "transformer.wte" not in {outcome.layer for outcome in outcomes}
    model, outcomes = apply_steps(checkpoint, ("gptq", {"bits": 4}, {}, {"lm_head": {"tied": True}}), data=data)
    assert isinstance(model.weights[TABLE], Quantized)
    facts, step = checkpoint[1], {"technique": "gptq", "settings": {}, "layers": ONLY}
    with pytest.raises(RecipeInvalid, match=r"matches transformer\.wte, which this step leaves out"):
        predict(facts, Recipe.read({"steps": [step]}))
    for wanted in (False, True):
        matched = match_layers(facts, Recipe.read({"steps": [{**step, "settings": {"tied": wanted}}]}).steps[0])
        assert matched.selected == ["transformer.wte"] * wanted


def test_a_table_that_is_no_head_is_left_with_the_reason(zoo, apply_steps):
    checkpoint = zoo.checkpoint("llama")
    data = seeded_batches(checkpoint[1].architecture)
    _, (outcome,) = apply_steps(checkpoint, ("gptq", {"tied": True}, {"include": ["model.embed_tokens"]}), data=data)
    assert outcome.skipped
    assert "it is no head too" in outcome.note


def test_a_table_under_two_names_that_is_no_head_is_rounded_as_predicted(zoo, bench, given_batches, apply_steps):
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "vocab_size": 40}
    zoo.build_tiny("T5EncoderModel", "t5", **sizes).save_pretrained(bench.root / "t5")
    facts = bench.checkpoint(bench.zip_folder(bench.root / "t5"))
    (table,) = (layer for layer in facts.layers if layer.kind == "embedding" and layer.aliases)
    settings = {"bits": 4, "granularity": "channel", "tied": True}
    step = ("gptq", settings, {"include": [table.name]})
    model, (outcome,) = apply_steps((bench.out, facts), step, data=given_batches(facts.architecture))
    assert "rounded to nearest" in outcome.note
    assert model.weights[table.weight].plan.bits == 4
