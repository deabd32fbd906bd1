"""llama.cpp's formats: its mixtures by its own rules, importance from the run's data, and every way round said."""

import json
from itertools import groupby
from pathlib import Path

import pytest
import torch

from tests.zoo import seeded_batches
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import outputs, synthetic
from webapp.engine.errors import RecipeInvalid
from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, LayerFacts
from webapp.engine.importers.gguf.importance import FILE, Importance, write_importance
from webapp.engine.math import ggml
from webapp.engine.recipe import Recipe
from webapp.engine.run.checks import without_data
from webapp.engine.run.predict import predict
from webapp.engine.techniques import needs_of, techniques
from webapp.engine.techniques.ggml_quantization.mixtures import PARTS, exact_type, fitting, types_of
from webapp.engine.weights import Dense, GgmlBlocks
from webapp.engine.weights.artifact import predicted_size, read_model, write_model
from webapp.engine.weights.model import Model

TYPES = json.loads(Path(__file__).with_name("llama_cpp_types.json").read_text())
Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"


@pytest.fixture
def llama(bench, tiny, tmp_path):
    """A tiny model whose rows are whole blocks of 256, all but those of down_proj."""

    def make(dtype=torch.float32, **changes):
        sizes = {"hidden_size": 256, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
        module = tiny("LlamaForCausalLM", "llama", **{**sizes, "num_key_value_heads": 2, **changes})
        with torch.no_grad():
            for norm in (part for path, part in module.named_modules() if path.endswith("norm")):
                norm.weight[::5] *= 12  # some inputs are loud
        module.to(dtype).save_pretrained(tmp_path / "model")
        facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
        return bench.out, facts

    return make


def recipe(kind="Q4_K_M", overrides=None, **settings):
    step = {"technique": "ggml_quantization", "settings": {"type": kind, **settings}, "overrides": overrides or {}}
    return Recipe.read({"steps": [step]})


def facts_of(blocks, shared, tied, columns=256):
    """Of a language model, by its shapes alone."""
    layers = []
    for block in range(blocks):
        for part in PARTS:
            rows = columns // shared if part in ("k_proj", "v_proj") else columns
            name = f"model.layers.{block}.{'mlp' if part in PARTS[4:] else 'self_attn'}.{part}"
            layers.append(LayerFacts(name=name, weight=f"{name}.weight", kind="linear", shape=(rows, columns)))
    table = {"name": "model.embed_tokens", "weight": "model.embed_tokens.weight", "shape": (64, columns)}
    layers.append(LayerFacts(**table, kind="embedding", aliases=("lm_head",) if tied else ()))
    if not tied:
        layers.append(LayerFacts(name="lm_head", weight="lm_head.weight", kind="linear", shape=(64, columns)))
    spec = ArchitectureSpec(family="transformers", title="", task="causal-lm", config={"model_type": "llama"})
    ties = {"lm_head.weight": "model.embed_tokens.weight"} if tied else {}
    return CheckpointFacts(
        format="huggingface", tensors=(), layers=tuple(layers), tied=ties, architecture=spec, weights_bytes=1
    )


def told(found, blocks):
    """Types by part: one word for all blocks, or "Q6_K 2 Q4_K 9" where they differ."""
    rows = {}
    for part in PARTS:
        row = [
            next(kind for name, kind in found.items() if f".{block}." in name and name.endswith(part))
            for block in blocks
        ]
        rows[part] = " ".join(f"{kind} {len(list(run))}" for kind, run in groupby(row))
    return rows | {name: kind for name, kind in found.items() if ".layers." not in name}


@pytest.mark.parametrize("case", TYPES)
def test_mixtures_give_each_tensor_the_type_that_llama_cpp_gave_it(case):
    """As `llama_model_quantize` of llama.cpp 0.5.0 wrote files of such models, which were equal byte for byte."""
    given, by_mixture = TYPES[case]["model"], TYPES[case]["types"]
    facts = facts_of(given["blocks"], given["shared"], given["tied"])
    for mixture, expected in by_mixture.items():
        found = types_of(facts, facts.layers, mixture, given["seen"])
        assert told(found, range(given["blocks"])) == expected, mixture


def test_rows_that_are_no_whole_blocks_get_the_type_that_llama_cpp_falls_back_to():
    assert {name: fitting(name, 576) for name in ("Q4_K", "Q5_K", "Q6_K", "Q2_K", "IQ2_XXS", "Q5_1")} == {
        "Q4_K": "Q5_0",
        "Q5_K": "Q5_1",
        "Q6_K": "Q8_0",
        "Q2_K": "Q4_0",
        "IQ2_XXS": "IQ4_NL",
        "Q5_1": "Q5_1",
    }
    assert all(fitting(name, 512) == name and fitting(name, 48) is None for name in ggml.TYPES)
    assert exact_type("Q4_K_M") == exact_type("Q4_K_S") == "Q4_K"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("data", [False, True], ids=["alone", "with data"])
def test_a_model_is_stored_in_blocks_as_predicted_and_answers_as_its_file(llama, apply_steps, tmp_path, dtype, data):
    checkpoint = llama(dtype)
    given = seeded_batches(checkpoint[1].architecture) if data else None
    model, outcomes = apply_steps(checkpoint, ("ggml_quantization", {"type": "Q4_K_M"}), data=given)
    size = write_model(model, tmp_path / "model.safetensors")
    assert size == predict(checkpoint[1], recipe()).after.size_bytes
    rows = {outcome.layer: outcome for outcome in outcomes}
    assert (rows[Q].asked, rows[Q].done, rows[Q].ok, rows[Q].note) == ("Q4_K", "Q4_K", True, "")
    assert (rows[DOWN].asked, rows[DOWN].done, rows[DOWN].ok) == ("Q6_K", "Q8_0", False)
    assert rows[DOWN].note == "its rows of 96 are no whole blocks of 256"
    assert rows["model.embed_tokens"].ok
    assert rows["lm_head"].done == "Q6_K"
    again, x = read_model(tmp_path / "model.safetensors"), synthetic(checkpoint[1].architecture, 1)
    with torch.no_grad():
        here, there = (outputs(build(each), each.architecture, x) for each in (model, again))
    assert torch.equal(here, there)


def test_data_tells_which_inputs_matter(llama, apply_steps):
    """By the error of the layers' outputs on samples that the step did not see."""
    checkpoint = llama()
    data, other = seeded_batches(checkpoint[1].architecture, 8), synthetic(checkpoint[1].architecture, 99)
    exact, errors = build(Model.of_checkpoint(*checkpoint)), {}
    for given in (None, data):
        model, _ = apply_steps(checkpoint, ("ggml_quantization", {"type": "Q2_K", "pure": True}), data=given)
        inputs = {}
        layer = exact.get_submodule(Q)
        with layer.register_forward_pre_hook(lambda _, x, inputs=inputs: inputs.update(x=x[0])), torch.no_grad():
            outputs(exact, checkpoint[1].architecture, other)
            wrong = model.weights[f"{Q}.weight"].decode() - layer.weight
            errors[given is not None] = float((inputs["x"] @ wrong.t()).norm())
    assert errors[True] < 0.9 * errors[False]


def test_an_override_gives_its_layers_that_type_itself(llama, apply_steps):
    step = ("ggml_quantization", {"type": "Q4_K_M"}, {"include": ["*"]}, {"*.q_proj": {"type": "Q5_K_M"}})
    checkpoint = llama()
    model, outcomes = apply_steps(checkpoint, step)
    kinds = {outcome.layer: outcome.done for outcome in outcomes}
    assert {kind for layer, kind in kinds.items() if layer.endswith("q_proj")} == {"Q5_K"}
    assert kinds["model.layers.0.self_attn.o_proj"] == "Q4_K"
    pure, _ = apply_steps(checkpoint, ("ggml_quantization", {"type": "Q3_K_L", "pure": True}))
    assert {each.type for each in pure.weights.values() if isinstance(each, GgmlBlocks)} == {"Q3_K", "Q4_0"}
    assert isinstance(model.weights["model.norm.weight"], Dense)


def test_what_cannot_be_blocks_becomes_half_precision_or_stays(inspected, apply_steps):
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Linear(64, 40), torch.nn.ReLU(), torch.nn.Linear(40, 64), torch.nn.Linear(64, 9)
    )
    layers[3].weight.data *= 1e9
    checkpoint = inspected(layers)
    model, outcomes = apply_steps(checkpoint, ("ggml_quantization", {"type": "Q4_0"}))
    first, second, third = outcomes
    assert (first.done, first.ok) == ("Q4_0", True)
    assert (second.done, second.ok) == ("dense float16", False)
    assert "its rows of 40 are no whole blocks of 32" in second.note
    assert (third.skipped, third.done) == (True, "left as it is")
    assert "beyond those that Q4_0 holds" in third.note
    assert model.weights["3.weight"].decode().equal(layers[3].weight)


def test_types_that_need_data_are_refused_before_the_run(llama):
    facts = llama()[1]
    for kind in ("IQ2_XXS", "IQ3_XS", "Q2_K_S"):
        assert needs_of("ggml_quantization", {"type": kind}) == {"calibration"}
        ((_, sentence),) = without_data(facts, recipe(kind), None, None)
        assert "needs calibration data; choose a dataset" in sentence
    assert needs_of("ggml_quantization", {"type": "IQ3_S"}) == {"calibration_if_any"}
    assert len(list(without_data(facts, recipe("Q8_0", {"*.q_proj": {"type": "IQ2_S"}}), None, None))) == 1
    assert list(without_data(facts, recipe("Q4_K_M"), None, None)) == []


def test_an_override_without_data_says_that_it_wanted_some(llama, apply_steps):
    step = ("ggml_quantization", {"type": "Q8_0"}, {"include": ["*"]}, {"*.q_proj": {"type": "IQ2_XXS"}})
    _, outcomes = apply_steps(llama(), step)
    wanted = [outcome for outcome in outcomes if outcome.layer.endswith("q_proj")]
    assert {(outcome.done, outcome.ok) for outcome in wanted} == {("IQ2_XXS", False)}
    assert "wants an importance matrix" in wanted[0].note


def test_zeros_and_integers_are_refused_by_name(llama):
    facts = llama()[1]
    for first, sentence in (
        ({"technique": "magnitude_pruning"}, "its zeros would not stay zeros in llama.cpp's blocks"),
        ({"technique": "weight_quantization"}, "its values are integers already"),
        ({"technique": "ggml_quantization"}, "its values are stored as Q4_K already"),
    ):
        with pytest.raises(RecipeInvalid, match=sentence):
            predict(
                facts, Recipe.read({"steps": [first, {"technique": "ggml_quantization", "settings": {"type": "Q4_0"}}]})
            )


def test_a_machine_without_llama_cpp_says_how_to_add_it(llama, monkeypatch):
    facts = llama()[1]
    monkeypatch.setattr(ggml, "find_spec", lambda name: None)
    with pytest.raises(RecipeInvalid, match=r"cannot be done here: xllamacpp.* pip install 'pare\[gguf\]'") as refused:
        predict(facts, recipe())
    assert refused.value.field == "steps.0.technique"


def test_plans_count_the_bytes_of_every_type(llama):
    facts = llama(intermediate_size=256)[1]
    technique = techniques()["ggml_quantization"]
    for name, kind in ggml.TYPES.items():
        settings = technique.Settings(type=name, pure=True)
        plans = {
            layer.weight: technique.plan(layer, Dense(torch.zeros(layer.shape)).plan, settings)
            for layer in facts.layers
        }
        assert sum(plan.bytes for plan in plans.values()) * 8 == sum(layer.size for layer in facts.layers) * kind.bits
        assert predicted_size(plans, {}, None)[1] > 0


def test_an_importance_matrix_makes_the_same_blocks_as_the_data_it_was_made_of(llama, apply_steps, tmp_path):
    folder, facts = llama()
    step, data, measured = ("ggml_quantization", {"type": "IQ2_M"}), seeded_batches(facts.architecture), {}
    by_data, _ = apply_steps((folder, facts), step, data=data, measured=measured)
    write_importance(folder / FILE, Importance(measured))
    came = facts.model_copy(update={"importance": ""})
    assert list(without_data(came, recipe("IQ2_M"), None, None)) == []
    by_matrix, outcomes = apply_steps((folder, came), step)
    for name, encoded in by_matrix.weights.items():
        parts, others = encoded.parts(), by_data.weights[name].parts()
        assert all(torch.equal(part, others[suffix]) for suffix, part in parts.items()), name
    assert {outcome.layer for outcome in outcomes if "no whole blocks" not in outcome.note and not outcome.ok} == set()
    plain, _ = apply_steps((folder, came), ("ggml_quantization", {"type": "Q4_K_M", "importance": "none"}), data=data)
    alone, _ = apply_steps((folder, facts), ("ggml_quantization", {"type": "Q4_K_M"}))
    assert torch.equal(plain.weights[f"{Q}.weight"].blocks, alone.weights[f"{Q}.weight"].blocks)


def test_a_layer_that_an_importance_matrix_says_nothing_of_is_told(llama, apply_steps):
    folder, facts = llama()
    measured = {}
    apply_steps((folder, facts), ("ggml_quantization", {}), data=seeded_batches(facts.architecture), measured=measured)
    del measured["blk.0.attn_q.weight"]
    write_importance(folder / FILE, Importance(measured))
    _, outcomes = apply_steps((folder, facts.model_copy(update={"importance": ""})), ("ggml_quantization", {}))
    rows = {outcome.layer: outcome for outcome in outcomes}
    assert (rows[Q].done, rows[Q].ok) == ("Q4_K", False)
    assert "says nothing of it, so all its inputs count alike" in rows[Q].note
    assert rows["lm_head"].ok


def test_compensation_needs_samples_and_an_importance_matrix_is_not_enough(llama):
    facts = llama()[1].model_copy(update={"importance": ""})
    assert needs_of("ggml_quantization", {"compensation": True}) == {"calibration"}
    ((_, sentence),) = without_data(facts, recipe("Q4_0", compensation=True), None, None)
    assert "needs calibration data" in sentence


@pytest.mark.parametrize("tied", [False, True])
def test_errors_are_compensated_in_llama_cpp_s_blocks(llama, apply_steps, tied):
    """The answers lie nearer to the original's, a table that is the head too included; the bytes are as predicted."""
    checkpoint = llama(intermediate_size=256, tie_word_embeddings=tied)
    data = seeded_batches(checkpoint[1].architecture, 24)
    exact, x = build(Model.of_checkpoint(*checkpoint)), synthetic(checkpoint[1].architecture, 99)
    with torch.no_grad():
        expected = outputs(exact, checkpoint[1].architecture, x)
    errors = []
    for compensation in (False, True):
        settings = {"type": "Q4_0", "pure": True, "compensation": compensation}
        measured = {}
        step = ("ggml_quantization", settings)
        model, outcomes = apply_steps(checkpoint, step, data=data, measured=measured)
        assert {(outcome.done, outcome.ok) for outcome in outcomes} == {("Q4_0", True)}
        assert [outcome.layer for outcome in outcomes] == [layer.name for layer in checkpoint[1].layers]
        assert all(isinstance(model.weights[layer.weight], GgmlBlocks) for layer in checkpoint[1].layers)
        assert "blk.1.ffn_down.weight" in measured
        with torch.no_grad():
            errors.append(float((outputs(build(model), checkpoint[1].architecture, x) - expected).norm()))
    assert errors[1] < 0.9 * errors[0]
