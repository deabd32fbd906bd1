"""A profile, as its child makes it: whole, or killed and gone on with."""

import random

import numpy as np
import pytest
import torch

from tests import zoo
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import outputs
from webapp.engine.errors import DatasetUnfit
from webapp.engine.profiles.budget import BudgetGoal, Solver
from webapp.engine.profiles.facts import KEPT
from webapp.engine.profiles.fit import LossFit
from webapp.engine.profiles.options import layer_options
from webapp.engine.profiles.patterns import escaped
from webapp.engine.progress import Silent
from webapp.engine.run.profile_job import ProfileJob
from webapp.engine.run.profiling import profiled
from webapp.engine.run.stages.job import CheckpointGiven, DataGiven, DatasetGiven
from webapp.engine.techniques.surgery import with_structure
from webapp.engine.weights.artifact import write_model


class Killed(Exception):
    pass


class KilledAt(Silent):
    """A report whose work is killed when it tells of its progress for that time."""

    def __init__(self, at=None):
        self.told, self.at = 0, at

    def progress(self, fraction, message=""):
        assert 0 <= fraction <= 1
        self.told += 1
        if self.told == self.at:
            raise Killed


def arrays(bench, shape, split="auto", n=200, classes=10):
    values = np.random.default_rng(0)
    x = values.standard_normal((n, *shape)).astype(np.float32)
    np.savez(bench.root / "d.npz", x=x, y=values.integers(0, classes, n))
    return bench.dataset(bench.root / "d.npz", split), bench.out


def text(bench, words=6000):
    drawn = random.Random(0).choices(zoo.WORDS[4:], k=words)
    return bench.dataset(bench.file("d.txt", " ".join(drawn))), bench.out


@pytest.fixture
def job(tmp_path, bench):
    def made(family, data=None, dtype="float32", name="scratch", second=None):
        folder, facts = zoo.checkpoint(family, dtype)
        common = {"name": "a", "digest": "0" * 64}
        checkpoint = CheckpointGiven(folder=folder, facts=facts, filename="a.pt", size_bytes=1, **common)
        dataset, training = (
            given and DatasetGiven(folder=given[1], facts=given[0], **common) for given in (data, second)
        )
        return ProfileJob(
            checkpoint=checkpoint,
            dataset=dataset,
            training_dataset=training,
            run=DataGiven(),
            output=tmp_path,
            scratch=tmp_path / name,
        )

    return made


def test_every_option_has_a_loss_and_mixed_recipes_are_measured(job, bench):
    found = profiled(job("cnn", arrays(bench, (1, 16, 16))), Silent())
    assert (found.unit, found.task, found.samples) == ("nats", "classification", 140)
    for layer in found.layers:
        kept, *others = layer.options
        assert (kept.family, kept.loss) == (KEPT, 0.0)
        assert all(option.loss >= 0 for option in others)
        eight, four, two = (
            (next(option.loss for option in others if option.label.startswith(f"{bits} bits")) for bits in (8, 4, 2))
            if layer.kind != "other"
            else (0.0, 0.0, 0.0)
        )
        assert eight <= four <= two, layer.name
    (cut,) = found.cuts
    assert cut.unit == "channels of 2"
    assert 0 < cut.loss < 1
    assert len(found.measured) > 2
    losses = [one.loss for one in found.measured]
    assert losses == sorted(losses)
    for one in found.measured:
        assert one.points is not None
        assert one.loss == pytest.approx(sum(one.predicted.values()), rel=1.0)
    judged = [one for one in found.measured if one.evaluated is not None]
    assert 1 < len(judged) < len(found.measured)
    assert all(one.evaluated == pytest.approx(one.loss, rel=1.0) for one in judged)  # a model that was never trained


def test_one_that_is_killed_goes_on_and_ends_alike(job, bench):
    data = text(bench)
    whole, told = KilledAt(), {"exclude": {"seconds"}}
    expected = profiled(job("gpt2", data, "bfloat16"), whole).model_dump(**told)
    for at in (3, whole.told - 3):
        given = job("gpt2", data, "bfloat16", f"killed at {at}")
        with pytest.raises(Killed):
            profiled(given, KilledAt(at))
        again = KilledAt()
        assert profiled(given, again).model_dump(**told) == expected
        assert again.told < whole.told


def test_without_samples_that_it_may_see_it_is_refused(job, bench):
    with pytest.raises(DatasetUnfit, match="training split"):
        profiled(job("mlp", arrays(bench, (64,), "all")), Silent())


def test_what_fits_the_only_samples_that_there_are_is_not_free(job, bench):
    """Factors of rank 12 answer to 4 rows of 64 numbers as the weight does, but to no other row."""
    few, many = (
        profiled(job("mlp", arrays(bench, (64,), n=n), name=f"of {n}"), Silent()).layers[0].options for n in (6, 200)
    )
    factors = [(a.loss, b.loss) for a, b in zip(few, many, strict=True) if a.family == "Low rank"]
    assert factors
    assert all(loss > usual / 10 for loss, usual in factors)


def test_a_single_sample_is_refused(job, bench):
    bench.file("d.txt", "the cat sat " * 8)
    with pytest.raises(DatasetUnfit, match="only one"):
        profiled(job("gpt2", (bench.dataset(bench.root / "d.txt"), bench.out)), Silent())


def test_a_second_dataset_that_only_evaluates_is_refused(job, bench):
    with pytest.raises(DatasetUnfit, match="none is left") as refused:
        profiled(job("mlp", arrays(bench, (64,), "all"), second=arrays(bench, (64,))), Silent())
    assert refused.value.field == "training_dataset_id"


def test_a_model_whose_blocks_change_the_shape_of_what_they_are_given(bench, tmp_path):
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 2}
    zoo.build_tiny("ResNetForImageClassification", "resnet", **sizes).save_pretrained(bench.root / "resnet")
    facts = bench.checkpoint(bench.zip_folder(bench.root / "resnet"))
    common = {"name": "a", "digest": "0" * 64}
    checkpoint = CheckpointGiven(folder=bench.out, facts=facts, filename="a.zip", size_bytes=1, **common)
    about, where = arrays(bench, (3, 16, 16), n=20, classes=2)
    dataset = DatasetGiven(folder=where, facts=about, **common)
    given = ProfileJob(checkpoint=checkpoint, dataset=dataset, run=DataGiven(), output=tmp_path, scratch=tmp_path / "s")
    found = profiled(given, Silent())
    assert all(any(option.loss > 0 for option in layer.options) for layer in found.layers if layer.kind == "conv")


def test_no_file_is_larger_than_promised_where_scales_are_beyond_float16(inspected, bench, tmp_path):
    """A row of tiny weights makes all scales of its matrix float32."""
    torch.manual_seed(0)
    module = zoo.mlp()
    with torch.no_grad():
        module[0].weight[3] *= 1e-6
    folder, facts = inspected(module)
    common = {"name": "a", "digest": "0" * 64}
    checkpoint = CheckpointGiven(folder=folder, facts=facts, filename="a.pt", size_bytes=1, **common)
    about, where = arrays(bench, (64,))
    dataset = DatasetGiven(folder=where, facts=about, **common)
    given = ProfileJob(checkpoint=checkpoint, dataset=dataset, run=DataGiven(), output=tmp_path, scratch=tmp_path / "s")
    solver = Solver(profiled(given, Silent()), facts)
    for size in (solver.smallest(), 6000):
        budget = solver.solve(BudgetGoal(bytes=size))
        steps = [
            (step["technique"], step["settings"], step["layers"], step.get("overrides", {}))
            for step in budget.recipe["steps"]
        ]
        model, _ = zoo.apply_steps((folder, facts), *steps, data=given.technique_data())
        assert write_model(model, tmp_path / "model.safetensors") <= budget.size_bytes <= size


def test_a_weight_that_is_used_without_its_module_is_not_free(bench, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 40, "state_size": 4}
    model = zoo.build_tiny("MambaForCausalLM", "mamba", **sizes)
    model.save_pretrained(bench.root / "mamba")
    zoo.write_tokenizer(bench.root / "mamba")
    facts = bench.checkpoint(bench.zip_folder(bench.root / "mamba"))
    common = {"name": "a", "digest": "0" * 64}
    checkpoint = CheckpointGiven(folder=bench.out, facts=facts, filename="a.zip", size_bytes=1, **common)
    about, where = text(bench)
    dataset = DatasetGiven(folder=where, facts=about, **common)
    given = ProfileJob(checkpoint=checkpoint, dataset=dataset, run=DataGiven(), output=tmp_path, scratch=tmp_path / "s")
    layers = profiled(given, Silent()).layers
    unused = [layer.name for layer in layers if layer.kind != "other" and not any(o.loss for o in layer.options)]
    assert not unused


def test_what_cuts_of_a_transformer_are_predicted_to_lose_is_about_what_they_lose(bench, tmp_path, monkeypatch):
    """Of a model whose blocks all matter, drawn wide enough that its answers differ from text to text."""
    monkeypatch.setattr("webapp.engine.run.profiling.layer_options", some_options)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "initializer_range": 0.15}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    zoo.build_tiny("LlamaForCausalLM", "llama", **sizes, **heads).save_pretrained(bench.root / "llama")
    zoo.write_tokenizer(bench.root / "llama")
    facts = with_structure(bench.checkpoint(bench.zip_folder(bench.root / "llama")))
    folder, common = bench.out, {"name": "a", "digest": "0" * 64}
    checkpoint = CheckpointGiven(folder=folder, facts=facts, filename="a.zip", size_bytes=1, **common)
    about, where = text(bench, 2000)
    dataset = DatasetGiven(folder=where, facts=about, **common)
    given = ProfileJob(checkpoint=checkpoint, dataset=dataset, run=DataGiven(), output=tmp_path, scratch=tmp_path / "s")
    found = profiled(given, Silent())
    by_unit = {}
    for cut in found.cuts:
        by_unit.setdefault(cut.unit, []).append(cut)
    assert by_unit.keys() == {"blocks", "neurons of all blocks", "heads of all blocks"}
    data, fit = given.technique_data(), LossFit.of(found)
    original = build(given.original())
    for cuts in by_unit.values():
        losses = [cut.loss for cut in cuts]
        assert losses == sorted(losses)
        cut = cuts[len(cuts) // 2]
        layers = {"include": [escaped(name) for name in cut.layers]}
        model, _ = zoo.apply_steps((folder, facts), (cut.step.technique, cut.step.settings, layers), data=data)
        smaller, lost, tokens = build(model), 0.0, 0
        with torch.no_grad():
            for batch in given.evaluation(0.5):
                before, after = (
                    outputs(each, facts.architecture, batch).log_softmax(-1) for each in (original, smaller)
                )
                lost += float((before.exp() * (before - after)).sum())
                tokens += before[..., 0].numel()
        expected = fit.loss(cut.loss, run=False).value
        assert expected / 3 < lost / tokens < 3 * expected, (cut.unit, expected, lost / tokens)


def some_options(facts):
    """Every eighth of each layer's."""
    layers = (layer.model_copy(update={"options": layer.options[::8]}) for layer in layer_options(facts))
    return tuple(layers)
