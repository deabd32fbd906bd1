"""Channels that leave are out of the shapes, everything they ran through is cut with them, and the rest still works."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from webapp.engine.architectures.build import build, load
from webapp.engine.architectures.reshape import describe_model
from webapp.engine.architectures.resnet import ResNetModule
from webapp.engine.data.batches import outputs, synthetic
from webapp.engine.errors import RecipeInvalid
from webapp.engine.facts import CheckpointFacts
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict
from webapp.engine.run.stages.export import write_companions
from webapp.engine.techniques.surgery import with_structure
from webapp.engine.weights.artifact import predicted_size, read_model, write_model
from webapp.engine.weights.model import Model

HALF = ("structured_pruning", {"ratio": 0.5})
RESNET = {
    "base": 8,
    "bottleneck": False,
    "kernel": 3,
    "channels": 1,
    "blocks": [2, 2, 2, 2],
    "width": 8,
    "groups": 1,
    "classes": 5,
    "bias": True,
}


@pytest.fixture
def resnet(inspected):
    torch.manual_seed(0)
    module = ResNetModule(RESNET)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            part.momentum = None
    with torch.no_grad():
        module.train()(torch.randn(64, 1, 32, 32))  # statistics that belong to the weights
    return inspected(module, "resnet")


@pytest.fixture
def llama(bench, tiny, tmp_path):
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    tiny("LlamaForCausalLM", "llama", **sizes).save_pretrained(tmp_path / "llama")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "llama"))
    return bench.out, facts


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_groups_lose_the_share_that_their_layers_are_asked_for(resnet, apply_steps, scope):
    settings = {"ratio": 0.5, "round_to": 1, "scope": scope, "importance": "l1"}
    overrides = {"layer1.*": {"ratio": 0.25}, "layer1.1.*": {}, "layer4.0.*": {"round_to": 8}}
    patterns = {"include": ["layer[134].*.conv1"]}
    step = ("structured_pruning", settings, patterns, overrides)
    model, outcomes = apply_steps(resnet, step)
    widths = {name: model.weights[f"{name}.conv1.weight"].shape[0] for name in ("layer1.0", "layer1.1", "layer4.0")}
    assert widths["layer1.0"] == 6  # of 8, alone in what it is asked for
    assert widths["layer4.0"] % 8 == 0
    if scope == "uniform":
        assert (widths["layer1.1"], widths["layer4.0"]) == (4, 32)
        given = dict(zip(("technique", "settings", "layers", "overrides"), step, strict=True))
        told = predict(with_structure(resnet[1]), Recipe.read({"steps": [given]}))
        assert told.exact
        assert told.after.params_stored == sum(e.plan.stored for e in model.weights.values() if "float" in e.plan.dtype)
    assert next(o.asked for o in outcomes if o.layer == "layer1.0.conv1").startswith("25\N{NO-BREAK SPACE}%")
    assert next(o.asked for o in outcomes if o.layer == "layer3.0.conv1").startswith("50\N{NO-BREAK SPACE}%")


def test_layers_that_make_the_same_channels_are_asked_for_the_same(resnet, llama):
    def refusal(facts, overrides, **settings):
        step = {"technique": "structured_pruning", "settings": settings, "overrides": overrides}
        with pytest.raises(RecipeInvalid) as caught:
            predict(with_structure(facts), Recipe.read({"steps": [step]}))
        return caught.value.message

    assert "make the same channels, so an override has to match both" in refusal(
        resnet[1], {"layer1.0.conv2": {"ratio": 0.7}}
    )
    assert "keep as many neurons, as every block must, so an override has to match both" in refusal(
        llama[1], {"model.layers.1.mlp.*": {"ratio": 0.7}}
    )
    assert "make the same heads" in refusal(llama[1], {"*.q_proj": {"ratio": 0.7}}, cut="heads")
    both = {"technique": "structured_pruning", "settings": {"cut": "both", "round_to": 1, "ratio": 0.5}}
    told = [
        predict(with_structure(llama[1]), Recipe.read({"steps": [both | {"overrides": {"*.mlp.*": {"ratio": ratio}}}]}))
        for ratio in (0.5, 0.75)
    ]
    assert told[1].after.params_stored < told[0].after.params_stored


def answers(model: Model) -> torch.Tensor:
    with torch.inference_mode():
        return outputs(build(model), model.architecture, synthetic(model.architecture, 7))


def test_neurons_of_an_mlp_leave_by_their_norm(mlp, apply_steps):
    folder, facts = mlp
    before = {n: e.decode() for n, e in Model.of_checkpoint(folder, facts).weights.items()}
    model, outcomes = apply_steps(mlp, HALF)
    kept = before["0.weight"].norm(dim=1).topk(24).indices.sort().values
    after = {name: encoded.decode() for name, encoded in model.weights.items()}
    assert torch.equal(after["0.weight"], before["0.weight"][kept])
    assert torch.equal(after["0.bias"], before["0.bias"][kept])
    assert torch.equal(after["2.weight"], before["2.weight"][:, kept])
    done = ["24 of 48 neurons stay (50.0\N{NO-BREAK SPACE}% removed)", "24 of 48 inputs stay"]
    assert [(o.done, o.ok) for o in outcomes] == [(told, True) for told in done]


@pytest.mark.parametrize("importance", ["l1", "l2", "taylor", "activation", "reconstruction"])
def test_neurons_that_do_nothing_are_the_first_to_leave(inspected, apply_steps, given_batches, importance):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 10))
    idle = torch.randperm(32)[:16]
    with torch.no_grad():
        for tensor in (module[0].weight, module[0].bias):
            tensor[idle] = 0.0
    folder, facts = inspected(module)
    data = given_batches(facts.architecture)
    model, _ = apply_steps((folder, facts), ("structured_pruning", {"ratio": 0.5, "importance": importance}), data=data)
    assert torch.allclose(answers(model), answers(Model.of_checkpoint(folder, facts)), atol=0.02)


@pytest.mark.parametrize("importance", ["l2", "batch_norm", "reconstruction"])
def test_residuals_and_norms_are_followed(resnet, apply_steps, given_batches, importance):
    data = given_batches(resnet[1].architecture)
    asked = ("structured_pruning", {"ratio": 0.5, "round_to": 4, "importance": importance})
    model, outcomes = apply_steps(resnet, asked, data=data)
    shapes = {name: encoded.shape for name, encoded in model.weights.items()}
    assert shapes["conv1.weight"] == (4, 1, 3, 3)
    assert shapes["layer1.1.conv2.weight"] == (4, 4, 3, 3)
    assert shapes["layer4.0.downsample.0.weight"] == (32, 16, 1, 1)
    assert shapes["layer4.1.bn2.running_var"] == (32,)
    assert shapes["fc.weight"] == (5, 32)
    assert all(outcome.ok for outcome in outcomes)
    assert answers(model).isfinite().all()


def test_what_calibration_adjusts_answers_nearer_to_the_original(mlp, apply_steps, given_batches):
    data = given_batches(mlp[1].architecture, 20)
    x = torch.cat([batch.inputs["x"] for batch in data.batches])

    def error(data, importance: str) -> float:
        asked = ("structured_pruning", {"ratio": 0.5, "importance": importance})
        model, _ = apply_steps(mlp, asked, data=data)
        with torch.inference_mode():
            return (build(model)(x) - build(Model.of_checkpoint(*mlp))(x)).square().sum().item()

    blind, adjusted = error(None, "l2"), error(data, "l2")
    assert adjusted < 0.8 * blind
    assert error(data, "reconstruction") < adjusted


def test_global_cuts_where_it_costs_least(resnet, apply_steps, given_batches):
    asked = ("structured_pruning", {"ratio": 0.5, "scope": "global", "importance": "activation", "round_to": 4})
    model, outcomes = apply_steps(resnet, asked, data=given_batches(resnet[1].architecture))
    shares = {outcome.done for outcome in outcomes}
    assert len(shares) > 1
    assert answers(model).shape == (8, 5)


@pytest.mark.parametrize("cut", ["neurons", "heads", "both"])
def test_stock_transformers_loads_what_is_left(llama, apply_steps, given_batches, tmp_path, cut):
    from transformers import AutoModelForCausalLM

    folder, facts = llama
    asked = ("structured_pruning", {"ratio": 0.5, "cut": cut, "importance": "reconstruction"})
    model, _ = apply_steps(llama, asked, data=given_batches(facts.architecture))
    out = tmp_path / "out"
    out.mkdir()
    write_model(model, out / "model.safetensors")
    assert write_companions(model, folder, facts.architecture.config, out) == ["config.json"]
    config = json.loads((out / "config.json").read_text())
    assert config["intermediate_size"] == (48 if cut == "heads" else 24)
    assert config["num_attention_heads"], config["num_key_value_heads"] == ((4, 2) if cut == "neurons" else (2, 1))
    stock = AutoModelForCausalLM.from_pretrained(out).eval()
    batch = synthetic(facts.architecture, 1)
    with torch.inference_mode():
        expected = stock(**batch.inputs).logits
        assert torch.allclose(outputs(load(out / "model.safetensors"), facts.architecture, batch), expected, atol=1e-5)


@pytest.mark.parametrize(("name", "model_type"), [("GPT2LMHeadModel", "gpt2"), ("BertModel", "bert")])
def test_neurons_leave_other_transformers_too(bench, tiny, tmp_path, apply_steps, given_batches, name, model_type):
    tiny(name, model_type, **({"n_inner": 40} if model_type == "gpt2" else {})).save_pretrained(tmp_path / "m")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "m"))
    asked = ("structured_pruning", {"ratio": 0.34, "importance": "reconstruction"})
    model, _ = apply_steps((bench.out, facts), asked, data=given_batches(facts.architecture))
    assert sum(e.plan.params for e in model.weights.values()) < facts.params_total
    assert answers(model).isfinite().all()


def test_a_round_trip_answers_alike_and_is_as_large_as_predicted(resnet, apply_steps, tmp_path):
    model, _ = apply_steps(resnet, HALF)
    size = write_model(model, tmp_path / "m.safetensors")
    assert torch.equal(answers(read_model(tmp_path / "m.safetensors")), answers(model))
    told = predict(with_structure(resnet[1]), Recipe.read({"steps": [{"technique": HALF[0], "settings": HALF[1]}]}))
    assert told.exact
    assert told.after.size_bytes == size
    plans = {name: encoded.plan for name, encoded in model.weights.items()}
    assert predicted_size(plans, model.tied, model.architecture)[1] == size


def test_zeros_of_an_earlier_step_stay_and_later_steps_take_what_is_left(resnet, apply_steps, given_batches):
    data = given_batches(resnet[1].architecture)
    pruned = ("magnitude_pruning", {"sparsity": 0.5})
    asked = ("structured_pruning", {"ratio": 0.5, "round_to": 4, "importance": "activation"})
    model, _ = apply_steps(resnet, pruned, asked, data=data)
    for layer in describe_model(model, resnet[1]).layers:
        weight = model.weights[layer.weight].decode()
        assert (weight == 0).float().mean() > 0.2, layer.name
    model, outcomes = apply_steps(resnet, asked, ("weight_quantization", {"bits": 8}), data=data)
    assert all(outcome.ok for outcome in outcomes)
    assert model.weights["layer1.1.conv2.weight"].shape == (4, 4, 3, 3)


def test_heads_leave_down_to_a_number_that_the_config_takes(bench, tiny, tmp_path, apply_steps):
    """Llama's takes one that divides the hidden size."""
    sizes = {"hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 8}
    tiny("LlamaForCausalLM", "llama", **sizes).save_pretrained(tmp_path / "m")
    facts = with_structure(bench.checkpoint(bench.zip_folder(tmp_path / "m")))
    assert {group.counts for group in facts.structure.groups if group.kind == "heads"} == {(1, 2, 4)}
    model, outcomes = apply_steps((bench.out, facts), ("structured_pruning", {"cut": "heads", "ratio": 0.4}))
    assert model.architecture.config["num_attention_heads"] == 4
    assert any("4 is the number that the config takes nearest to 4.8" in outcome.note for outcome in outcomes)
    assert answers(model).isfinite().all()
    assert "8 is the number that the config takes nearest to 7.2" in refusal(
        facts, ("structured_pruning", {"cut": "heads", "ratio": 0.1}, {})
    )


def refusal(facts: CheckpointFacts, *steps) -> str:
    made = [{"technique": name, "settings": values, **more} for name, values, more in steps]
    with pytest.raises(RecipeInvalid) as refused:
        predict(with_structure(facts), Recipe.read({"steps": made}))
    return refused.value.message


def test_what_cannot_be_cut_is_refused_with_the_reason(llama, mlp):
    only_first = {"layers": {"include": ["model.layers.0.*"]}}
    assert "one width for all blocks" in refusal(llama[1], ("structured_pruning", {"scope": "global"}, {}))
    assert "every block must keep as many" in refusal(llama[1], ("structured_pruning", {}, only_first))
    assert "none of the chosen layers" in refusal(mlp[1], ("structured_pruning", {"cut": "heads"}, {}))
    assert "64 is the least multiple that may stay, and there are 48" in refusal(
        mlp[1], ("structured_pruning", {"round_to": 64}, {})
    )
    quantized = ("weight_quantization", {}, {})
    assert "put structured_pruning before" in refusal(mlp[1], quantized, ("structured_pruning", {}, {}))


def test_concatenation_and_depthwise_convolutions_are_followed():
    from webapp.engine.facts import ArchitectureSpec
    from webapp.engine.techniques.surgery.traced import traced_groups

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 16, 1)
            self.deep = nn.Conv2d(24, 24, 3, groups=24)
            self.last = nn.Conv2d(24, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.deep(torch.cat([self.a(x), self.b(x)], 1))).mean((2, 3))

    with torch.device("meta"):
        module = Joined()
    spec = ArchitectureSpec(family="cnn", title="", task=None, config={}, inputs={"shape": [3, 8, 8]})
    found = {next(iter(group.makers)): group for group in traced_groups(module, spec)[0]}
    members = {(m.tensor, m.dim, m.offset) for m in found["b.weight"].members}
    assert {("b.weight", 0, 0), ("deep.weight", 0, 8), ("last.weight", 1, 8)} <= members


@settings(deadline=None, max_examples=15)
@given(
    st.integers(1, 12),
    st.integers(1, 40),
    st.integers(1, 6),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from(["l2", "reconstruction"]),
    st.integers(0, 2),
)
def test_any_width_and_dtype(tmp_path_factory, inputs, width, classes, dtype, importance, dead):
    from tests.engine.conftest import Bench
    from tests.zoo import Given
    from webapp.engine.progress import Silent
    from webapp.engine.run.predict import prepare_step
    from webapp.engine.techniques import Context

    bench = Bench(tmp_path_factory.mktemp("any"))
    torch.manual_seed(width)
    module = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes)).to(dtype)
    with torch.no_grad():
        module[0].weight[:dead] = 0.0
        module[2].weight[:, :dead] = 0.0
    facts = bench.checkpoint(bench.save("m.pt", module.state_dict()))
    facts = with_structure(facts)
    if not facts.structure.groups:
        return
    model = Model.of_checkpoint(bench.out, facts)
    asked = {"ratio": 0.5, "importance": importance, "round_to": 1}
    recipe = Recipe.read({"steps": [{"technique": "structured_pruning", "settings": asked}]})
    try:
        step = prepare_step(facts, recipe.steps[0], 0)
        step.reshaped(facts)
    except RecipeInvalid:
        assert round(width / 2) in (0, width)
        return
    data = Given(synthetic(facts.architecture, 0))
    step.technique.apply(model, step.settings, Context(step.layers, 0, Silent(), data, facts=facts))
    assert model.weights["0.weight"].shape == (max(1, round(width / 2)), inputs)
    assert model.weights["0.weight"].dtype == dtype
    assert answers(model).isfinite().all()
