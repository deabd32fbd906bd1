"""Cuts: what is offered, what it costs, and budgets that take some, whose file is the one that was promised."""

import itertools

import numpy as np
import pytest
import torch

from webapp.engine.facts import CheckpointFacts
from webapp.engine.profiles.budget import BudgetGoal, Limits, Solver
from webapp.engine.profiles.cuts import offered
from webapp.engine.profiles.facts import KEPT, ProfileFacts
from webapp.engine.profiles.options import layer_options
from webapp.engine.recipe import Recipe
from webapp.engine.run.budgets import expected_of, foretold
from webapp.engine.techniques.surgery import with_structure
from webapp.engine.weights.artifact import write_model


@pytest.fixture
def checkpoint(zoo):
    def of(family, dtype="float32"):
        path, facts = zoo.checkpoint(family, dtype)
        return path, with_structure(facts)

    return of


def drawn(facts: CheckpointFacts, seed: int = 0) -> ProfileFacts:
    """Options as dear as the bytes that they save, and cuts cheaper than those."""
    rng = np.random.default_rng(seed)

    def lossy(layer):
        whole = layer.options[0].bytes
        losses = (
            0.0 if option.family == KEPT else rng.lognormal(0, 1) * 2.0 ** (-16 * option.bytes / whole)
            for option in layer.options
        )
        options = (o.model_copy(update={"loss": loss}) for o, loss in zip(layer.options, losses, strict=True))
        return layer.model_copy(update={"options": tuple(options)})

    blocks = facts.structure.blocks
    order = rng.permutation(blocks.count if blocks else 0).tolist()
    cuts = tuple(
        each.cut(facts, 0.01 * place * rng.lognormal(0, 0.5), order[: each.offer.blocks])
        for place, each in enumerate(offered(facts), start=1)
    )
    return ProfileFacts(unit="nats", samples=8, layers=tuple(map(lossy, layer_options(facts))), cuts=cuts)


def steps_of(recipe):
    whole = ({"layers": {"include": ["*"]}, "overrides": {}, **step} for step in recipe["steps"])
    return [(step["technique"], step["settings"], step["layers"], step["overrides"]) for step in whole]


@pytest.mark.parametrize(("family", "dtype"), [("cnn", "float32"), ("mlp", "bfloat16")])
def test_the_written_file_of_a_budget_with_cuts_is_the_one_that_was_promised(
    checkpoint, apply_steps, given_batches, family, dtype, tmp_path
):
    path, facts = checkpoint(family, dtype)
    solver = Solver(drawn(facts), facts)
    size = round(1.1 * solver.smallest())
    found = solver.solve(BudgetGoal(bytes=size))
    assert found.cuts
    assert found.recipe["steps"][0]["technique"] == "structured_pruning"
    assert len({cut.unit for cut in found.cuts}) == len(found.cuts)
    model, _ = apply_steps((path, facts), *steps_of(found.recipe), data=given_batches(facts.architecture))
    written = write_model(model, tmp_path / "model.safetensors")
    assert 0.99 * found.size_bytes <= written <= found.size_bytes <= size


def test_no_larger_file_on_the_front_loses_more(checkpoint):
    _, facts = checkpoint("cnn")
    for seed in range(6):
        front = Solver(drawn(facts, seed), facts).solve(BudgetGoal(bytes=facts.weights_bytes)).front
        assert len(front) > 5
        for smaller, larger in itertools.pairwise(front):
            assert smaller.size_bytes < larger.size_bytes
            assert smaller.loss > larger.loss


def test_the_best_of_every_combination_of_cuts_is_found(checkpoint):
    _, facts = checkpoint("deep_mlp")
    profile = drawn(facts)
    some = list(dict.fromkeys(cut.unit for cut in profile.cuts))[:2]
    profile = profile.model_copy(update={"cuts": tuple(cut for cut in profile.cuts if cut.unit in some)})
    solver = Solver(profile, facts)
    units = {}
    for cut in profile.cuts:
        units.setdefault(cut.unit, [None]).append(cut)
    combinations = [[cut for cut in taken if cut] for taken in itertools.product(*units.values())]
    each = [
        solver.without(cuts) if cuts else Solver(profile.model_copy(update={"cuts": ()}), facts)
        for cuts in combinations
    ]
    for times in (1.05, 1.3, 2):
        goal = BudgetGoal(bytes=round(times * solver.smallest()))
        alone = [one.solve(goal).expected.loss.value for one in each if one.smallest() <= goal.bytes]
        assert solver.solve(goal).expected.loss.value <= 1.02 * min(alone)
    assert solver.smallest() <= min(one.smallest() for one in each)


def test_locks_and_families_keep_cuts_away(checkpoint):
    _, facts = checkpoint("cnn")
    solver = Solver(drawn(facts), facts)
    size = round(1.1 * solver.smallest())
    assert solver.solve(BudgetGoal(bytes=size)).cuts
    rounded = Limits(families=("Quantization",))
    assert not solver.solve(BudgetGoal(bytes=max(size, solver.smallest(rounded))), rounded).cuts
    unit, layers = next((cut.unit, cut.layers) for cut in solver.profile.cuts)
    locked = Limits(locks={layers[0]: 0})
    found = solver.solve(BudgetGoal(bytes=max(size, solver.smallest(locked))), locked)
    assert unit not in {cut.unit for cut in found.cuts}
    assert next(layer.option for layer in found.layers if layer.name == layers[0]) == 0


def test_what_a_recipe_with_cuts_loses_is_read_back_from_it(checkpoint):
    _, facts = checkpoint("cnn")
    solver = Solver(drawn(facts), facts)
    budget = solver.solve(BudgetGoal(bytes=round(1.1 * solver.smallest())))
    assert budget.cuts
    assert foretold("p", solver, Recipe.read(budget.recipe)) == expected_of("p", budget)
    assert expected_of("p", budget)["predicted"]["Pruning"] >= sum(cut.loss for cut in budget.cuts)


GROUPED = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 5}
GROUPED |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
TRANSFORMERS = {
    "llama": ("LlamaForCausalLM", GROUPED),
    "bert": ("BertForSequenceClassification", {"num_hidden_layers": 4}),
    "vit": ("ViTForImageClassification", {"num_hidden_layers": 4}),
}


@pytest.fixture
def transformer(bench, tiny, save_tokenizer):
    """A model whose blocks can be cut, saved in a dtype and inspected: the folder of its files, and its facts."""

    def of(kind, dtype):
        class_name, sizes = TRANSFORMERS[kind]
        folder = bench.root / kind
        tiny(class_name, kind, **sizes).to(getattr(torch, dtype)).save_pretrained(folder)
        if kind != "vit":
            save_tokenizer(folder)
        facts = bench.checkpoint(bench.zip_folder(folder))
        return bench.out, with_structure(facts)

    return of


@pytest.mark.parametrize(
    ("kind", "units"),
    [
        ("llama", {"blocks", "neurons of all blocks", "heads of all blocks"}),
        ("bert", {"blocks", "neurons of all blocks"}),  # whose config cannot say fewer heads
    ],
)
def test_blocks_of_transformers_lose_alike(transformer, kind, units):
    _, facts = transformer(kind, "float32")
    offers = offered(facts)
    assert {each.offer.unit for each in offers} == units
    for each in offers:
        kept = each.offer.kept
        assert len(kept) == (0 if each.offer.blocks else facts.structure.blocks.count)
        assert len({*kept.values()}) == min(len(kept), 1)


def left_with(chosen, profile):
    return next(cut.layers for cut in profile.cuts if (cut.unit, cut.label) == (chosen.unit, chosen.label))


@pytest.mark.parametrize(
    ("kind", "dtype"), [("llama", "bfloat16"), ("bert", "float32"), ("vit", "float32"), ("vit", "bfloat16")]
)
def test_no_file_of_a_transformer_that_was_cut_is_larger_than_promised(
    transformer, apply_steps, given_batches, kind, dtype, tmp_path
):
    path, facts = transformer(kind, dtype)
    solver = Solver(drawn(facts), facts)
    for size, families in ((solver.smallest(), None), (round(0.6 * facts.weights_bytes), ("Pruning",))):
        limits = Limits(families=families)
        found = solver.solve(BudgetGoal(bytes=size), limits)
        assert found.cuts
        left = {name for cut in found.cuts if cut.unit == "blocks" for name in left_with(cut, solver.profile)}
        every = [layer.name for layer in solver.profile.layers]
        assert [layer.name for layer in found.layers] == [name for name in every if name not in left]
        model, _ = apply_steps((path, facts), *steps_of(found.recipe), data=given_batches(facts.architecture))
        written = write_model(model, tmp_path / "model.safetensors")
        assert 0.99 * found.size_bytes <= written <= found.size_bytes <= size
        assert foretold("p", solver, Recipe.read(found.recipe)) == expected_of("p", found)


def test_a_locked_layer_keeps_its_block_and_no_other(transformer):
    _, facts = transformer("llama", "float32")
    solver = Solver(drawn(facts), facts)
    leaving = [cut for cut in solver.profile.cuts if cut.unit == "blocks"]
    last = next(name for name in leaving[-1].layers if name not in leaving[0].layers)
    limits = Limits(locks={last: 0})
    found = solver.solve(BudgetGoal(bytes=solver.smallest(limits)), limits)
    assert {cut.label for cut in found.cuts if cut.unit == "blocks"} == {leaving[0].label}
    assert next(layer.option for layer in found.layers if layer.name == last) == 0
