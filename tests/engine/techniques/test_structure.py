"""What is derived of a cut model from facts alone is what a fresh look at its real module finds."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from webapp.engine.architectures.build import build
from webapp.engine.architectures.reshape import describe_model, reshaped_facts
from webapp.engine.architectures.resnet import ResNetModule
from webapp.engine.data.batches import outputs, synthetic
from webapp.engine.errors import RecipeInvalid
from webapp.engine.facts import CheckpointFacts, Structure
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe, StepSettings
from webapp.engine.run.predict import predict, prepare_step
from webapp.engine.techniques import Context, techniques
from webapp.engine.techniques.surgery import look_at, with_structure
from webapp.engine.techniques.surgery.structure import NOT_FOLLOWED
from webapp.engine.techniques.surgery.surgery import recalibrate_batch_norm
from webapp.engine.weights import Dense
from webapp.engine.weights.model import Model

from .test_channels_of_transformers import TYPES
from .test_structured_pruning import RESNET

WIDE = {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 80}
FAMILIES = {  # class, changes to its tiny config
    "llama": ("LlamaForCausalLM", {**WIDE, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2ForCausalLM", {**WIDE, "num_key_value_heads": 2, "vocab_size": 40, "tie_word_embeddings": True}),
    "gpt2": ("GPT2LMHeadModel", {"n_layer": 4}),
    "bert": ("BertForSequenceClassification", WIDE),
    "vit": ("ViTForImageClassification", WIDE),
    "mixtral": TYPES["mixtral"][:2],
    "deepseek_v3": TYPES["deepseek_v3"][:2],
    "convnext": TYPES["convnext"][:2],
}
HALF = ("structured_pruning", {"ratio": 0.5, "round_to": 4})
CUT = ("structured_pruning", {"ratio": 0.4, "round_to": 4})
BOTH = ("structured_pruning", {"ratio": 0.5, "round_to": 4, "cut": "both"})
STUDENT = ("smaller_student", {"depth": 0.5, "width": 0.5, "heads": 0.5, "round_to": 4})


def drop(count, by="evenly"):
    return "layer_drop", {"blocks": count, "by": by}


RECIPES = {
    "llama": [(CUT, CUT), (BOTH, drop(2)), (drop(3),), (STUDENT,), (drop(1, "last"), BOTH, CUT)],
    "qwen2": [(drop(2), BOTH)],
    "gpt2": [(CUT, drop(2))],
    "bert": [(drop(1), CUT)],
    "vit": [(STUDENT,)],
    "mixtral": [(BOTH,)],
    "deepseek_v3": [(HALF, drop(1, "last"))],
    "convnext": [(CUT, CUT)],
}


class Joined(nn.Module):
    """(B, 3, 8, 8): two convolutions concatenated, a depthwise one, a norm, and two that read them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 24, 1)
        self.deep, self.norm = nn.Conv2d(40, 40, 3, padding=1, groups=40), nn.BatchNorm2d(40)
        self.c, self.last = nn.Conv2d(40, 40, 1), nn.Linear(40 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.deep(torch.cat([self.a(x), self.b(x)], 1)))
        return self.last(nn.functional.adaptive_avg_pool2d(self.c(x).relu(), 2).flatten(1))


@pytest.fixture
def made(bench, tiny, inspected, tmp_path):
    """The facts of a tiny checkpoint of a family, and its model."""

    def make(family: str) -> tuple[CheckpointFacts, Model]:
        torch.manual_seed(0)
        if family == "resnet":
            facts = inspected(ResNetModule(RESNET), family)[1]
        elif family == "joined":
            program = torch.export.export(Joined().eval(), (torch.randn(2, 3, 8, 8),))
            torch.export.save(program, tmp_path / "joined.pt2")
            facts = bench.checkpoint(tmp_path / "joined.pt2")
        elif family == "cnn":
            layers = [nn.Conv2d(1, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 16, 3), nn.ReLU()]
            facts = inspected(nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10)), family)[1]
        else:
            name, changes = FAMILIES[family]
            tiny(name, family, **changes).save_pretrained(tmp_path / family)
            facts = bench.checkpoint(bench.zip_folder(tmp_path / family))
        return with_structure(facts), Model.of_checkpoint(bench.out, facts)

    return make


def alike(facts: CheckpointFacts) -> tuple:
    """Facts without an order that says nothing, and without counts of zeros that only values tell."""
    structure = facts.structure
    assert structure is not None
    groups = [
        (g.kind, g.width, frozenset(g.members), g.key, g.times, g.stacked, g.multiple, g.counts)
        for g in structure.groups
    ]
    stays = {why: set(weights) for why, weights in structure.stays.items()}
    shapes = {tensor.name: (tensor.shape, tensor.dtype) for tensor in facts.tensors}
    return groups, stays, structure.blocks, structure.config, shapes, facts.layers, facts.tied, facts.architecture


CASES = [(family, steps) for family, recipes in RECIPES.items() for steps in recipes]
CASES += [(family, steps) for family in ("resnet", "cnn", "joined") for steps in ((CUT, CUT),)]


@pytest.mark.parametrize(("family", "steps"), CASES, ids=lambda given: given if isinstance(given, str) else None)
def test_what_is_derived_is_what_the_module_has(made, family, steps):
    facts, model = made(family)
    recipe = Recipe.read({"steps": [{"technique": name, "settings": settings} for name, settings in steps]})
    assert facts.structure.groups
    for position, step in enumerate(recipe.steps):
        prepared = prepare_step(facts, step, position)
        change = prepared.reshaped(facts)
        prepared.technique.apply(model, prepared.settings, Context(prepared.layers, 0, Silent(), facts=facts))
        before, facts = facts, reshaped_facts(facts, change)
        real = describe_model(model, before)
        assert real.structure is None
        assert alike(facts) == alike(real.model_copy(update={"structure": look_at(real)}))


def test_stages_are_no_row_of_blocks_of_which_one_could_leave(bench, tiny, tmp_path):
    sizes = {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
    tiny("SwinForImageClassification", "swin", **sizes).save_pretrained(tmp_path / "swin")
    found = look_at(bench.checkpoint(bench.zip_folder(tmp_path / "swin")))
    assert (found.groups, found.blocks, found.unknown) == ((), None, None)
    assert any("no one number of heads" in why for why in found.stays)


def test_what_the_library_s_module_would_not_have_is_skipped_with_a_sentence(made):
    facts, model = made("bert")
    found = facts.structure
    misled = tuple(replace(group, key="hidden_size") for group in found.groups)
    facts = facts.model_copy(update={"structure": found.model_copy(update={"groups": misled})})
    recipe = Recipe.read({"steps": [{"technique": CUT[0], "settings": CUT[1]}]})
    step = prepare_step(facts, recipe.steps[0], 0)
    assert step.reshaped(facts)
    with pytest.raises(RecipeInvalid, match="the config of BertForSequenceClassification cannot say what would be lef"):
        step.applied(model, Context(step.layers, 0, Silent(), facts=facts))


@pytest.mark.parametrize("structure", [None, Structure(unknown="nobody could look")])
def test_a_structure_that_is_not_known_is_said_where_it_is_needed(mlp, structure):
    facts = mlp[1].model_copy(update={"structure": structure})
    for name in ("structured_pruning", "layer_drop", "smaller_student"):
        with pytest.raises(RecipeInvalid, match="nobody could look" if structure else "still being looked at"):
            predict(facts, Recipe.read({"steps": [{"technique": name}]}))
    assert predict(facts, Recipe.read({"steps": [{"technique": "weight_quantization"}]}))


def test_a_module_that_cannot_be_followed_has_a_sentence(mlp, monkeypatch):
    def fails(*given):
        raise RuntimeError("torch-pruning has no rule for this")

    monkeypatch.setattr("webapp.engine.techniques.surgery.structure.traced_groups", fails)
    spec = mlp[1].architecture.model_copy(update={"title": "looked at for the first time"})
    assert look_at(mlp[1].model_copy(update={"architecture": spec})) == Structure(unknown=NOT_FOLLOWED)


@pytest.mark.parametrize("importance", ["l2", "reconstruction"])
def test_concatenated_parts_lose_channels_of_their_own(made, given_batches, importance):
    """Those that nothing reads, and only those, leave each of the two: the answers are as they were."""
    facts, model = made("joined")
    idle = {"a.weight": range(0, 16, 2), "b.weight": range(8), "c.weight": range(0, 32, 2)}
    for name, rows in idle.items():
        model.weights[name] = Dense(model.weights[name].decode().clone().index_fill_(0, torch.tensor([*rows]), 0.0))
        bias = name.replace("weight", "bias")
        model.weights[bias] = Dense(model.weights[bias].decode().clone().index_fill_(0, torch.tensor([*rows]), 0.0))
    columns = torch.tensor([*range(0, 16, 2), *range(16, 24)])
    model.weights["c.weight"] = Dense(model.weights["c.weight"].decode().clone().index_fill_(1, columns, 0.0))
    data, batch = given_batches(facts.architecture, 30), synthetic(facts.architecture, 7)
    recalibrate_batch_norm(model, data.calibration())  # as the step does it, for what stays
    with torch.inference_mode():
        before = outputs(build(model), facts.architecture, batch)
    technique = techniques()["structured_pruning"]
    layers = [layer for layer in facts.layers if layer.kind in technique.layers]
    context = Context(layers, 0, Silent(), data, facts=facts)
    settings = technique.Settings(ratio=0.4, importance=importance, round_to=8)
    technique.apply(model, StepSettings(settings), context)
    assert model.weights["deep.weight"].shape == (24, 1, 3, 3)
    with torch.inference_mode():
        assert torch.allclose(outputs(build(model), facts.architecture, batch), before, atol=1e-5)
