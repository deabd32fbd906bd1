"""Low rank on real layers: as small as asked, as close as its method promises, and run as the factors are stored."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from webapp.engine.architectures.build import build
from webapp.engine.architectures.factored_layers import FactoredModule
from webapp.engine.data.batches import outputs, synthetic
from webapp.engine.errors import DatasetUnfit
from webapp.engine.facts import LayerFacts
from webapp.engine.math.whitening import metric, output_metric
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe, StepSettings
from webapp.engine.run.predict import predict
from webapp.engine.techniques import Context, Skip, technique
from webapp.engine.techniques.calibration.drawn_loss import DrawnLoss
from webapp.engine.techniques.calibration.gradients import learned
from webapp.engine.techniques.low_rank.factorizations import MatrixForm
from webapp.engine.weights import Dense, DensePlan, Factored, FactoredConv, Pivoted
from webapp.engine.weights.artifact import read_model, write_model
from webapp.engine.weights.model import Model
from webapp.units import percent

FACTORS, PIVOTS, WHITENED = {"form": "factors"}, {"form": "pivots"}, {"method": "whitened"}


def weight(checkpoint, name="0.weight"):
    return Model.of_checkpoint(*checkpoint).weights[name].decode().float()


@pytest.mark.parametrize("form", [FACTORS, PIVOTS])
def test_plain_is_the_best_of_its_rank(mlp, apply_steps, form):
    """Eckart and Young: the squared error is the sum of the squared singular values that were cut."""
    model, _ = apply_steps(mlp, ("low_rank", {"by": "rank", "rank": 9, **form}))
    error = (model.weights["0.weight"].decode() - weight(mlp)).square().sum()
    assert error.item() == pytest.approx(torch.linalg.svdvals(weight(mlp))[9:].square().sum().item(), rel=1e-4)


def test_pivots_hold_a_higher_rank_in_the_same_values(mlp, apply_steps):
    ranks = {}
    for form in ("factors", "pivots"):
        model, _ = apply_steps(mlp, ("low_rank", {"ratio": 0.6, "form": form}))
        plan = model.weights["0.weight"].plan
        ranks[form] = plan.rank
        assert 0.58 * 64 * 48 <= plan.params <= 0.6 * 64 * 48
    assert ranks["pivots"] > 1.2 * ranks["factors"]


def test_energy_takes_the_smallest_rank_that_reaches_it(mlp, apply_steps):
    squares = torch.linalg.svdvals(weight(mlp)).square()
    model, _ = apply_steps(mlp, ("low_rank", {"by": "energy", "energy": 0.5}))
    rank = model.weights["0.weight"].plan.rank
    assert squares[:rank].sum() >= 0.5 * squares.sum() > squares[: rank - 1].sum()


@pytest.mark.parametrize(("form", "most"), [(FACTORS, 8), (PIVOTS, 9)])
def test_what_would_not_save_is_left_and_says_why(mlp, apply_steps, form, most):
    _, (first, second) = apply_steps(mlp, ("low_rank", {"by": "rank", "rank": most + 1, **form}))
    assert first.ok
    assert second.skipped
    assert f"smaller only up to rank {most}" in second.note


def test_factors_run_as_two_products(mlp, apply_steps):
    model, _ = apply_steps(mlp, ("low_rank", {"ratio": 0.4, **FACTORS}))
    module = build(model)
    assert len([m for m in module.modules() if isinstance(m, FactoredModule)]) == 2
    assert sum(p.numel() for p in module.parameters()) < 0.45 * (64 * 48 + 480) + 58


@pytest.mark.parametrize("allocation", ["layer", "global"])
@pytest.mark.parametrize("form", [FACTORS, PIVOTS])
def test_whitened_answers_no_worse_than_plain(mlp, apply_steps, given_batches, form, allocation):
    data, original = given_batches(mlp[1].architecture), build(Model.of_checkpoint(*mlp))
    errors = {}
    for method in ("plain", "whitened"):
        values = {"method": method, "ratio": 0.5, "allocation": allocation, **form}
        model, outcomes = apply_steps(mlp, ("low_rank", values), data=data)
        assert all(outcome.ok for outcome in outcomes)
        kept = sum(model.weights[f"{n}.weight"].plan.params for n in (0, 2))
        assert kept <= 0.5 * (64 * 48 + 480)
        batches = data.batches
        errors[method] = sum((build(model)(b.inputs["x"]) - original(b.inputs["x"])).square().sum() for b in batches)
    assert errors["whitened"] < errors["plain"]


def test_a_budget_for_all_gives_more_where_more_is_lost(inspected, apply_steps):
    """The first matrix has rank 4, the second is full: with half the values, the first needs few of them."""
    torch.manual_seed(1)
    low, full = nn.Linear(32, 32), nn.Linear(32, 32)
    with torch.no_grad():
        low.weight.copy_(torch.randn(32, 4) @ torch.randn(4, 32))
    checkpoint = inspected(nn.Sequential(low, nn.ReLU(), full))
    each, _ = apply_steps(checkpoint, ("low_rank", {"ratio": 0.5}))
    shared, outcomes = apply_steps(checkpoint, ("low_rank", {"ratio": 0.5, "allocation": "global"}))
    assert shared.weights["0.weight"].plan.rank == 4
    assert shared.weights["2.weight"].plan.rank > each.weights["2.weight"].plan.rank
    assert [outcome.asked for outcome in outcomes] == [
        "50\N{NO-BREAK SPACE}% of its parameters over all layers of this ratio"
    ] * 2


def test_a_layer_that_loses_too_much_may_stay_whole(inspected, apply_steps):
    torch.manual_seed(1)
    checkpoint = inspected({"low.weight": torch.randn(64, 2) @ torch.randn(2, 64), "full.weight": torch.eye(8)})
    model, outcomes = apply_steps(checkpoint, ("low_rank", {"ratio": 0.5, "allocation": "global"}))
    by_name = {outcome.layer: outcome for outcome in outcomes}
    assert by_name["full"].ok
    assert "made the room" in by_name["full"].note
    assert model.weights["full.weight"].plan.plain


def seen(rows, columns):
    """A matrix (out, in), the metrics of its inputs and outputs, and their covariances."""
    generator = torch.Generator().manual_seed(0)
    weight, x, g = (torch.randn(n, m, generator=generator) for n, m in ((rows, columns), (40, columns), (40, rows)))
    x, g = x * torch.linspace(0.1, 2, columns), g * torch.linspace(2, 0.1, rows)
    h, g = (each.t().double() @ each.double() for each in (x, g))
    return weight.double(), metric(h, 1e-9), output_metric(g, 1e-9), h, g


@pytest.mark.parametrize("pivots", [True, False])
@pytest.mark.parametrize("shape", [(6, 8), (8, 6)])
def test_whitened_on_both_sides_loses_the_least_that_its_rank_can(shape, pivots):
    """Of tr(G D H D^T), and as much as it was expected to; the outputs alone it meets less well."""
    weight, inputs, outputs, h, g = seen(*shape)
    form = MatrixForm(shape, pivots=pivots)
    expected = form.expected(weight, inputs, outputs)
    for option, told in zip(form.options, expected, strict=True):
        lost = []
        for sides in (outputs, None):
            made = form.split(weight, inputs, sides).encoded(option, torch.float64).decode()
            lost.append(0.5 * float(((g @ (made - weight) @ h) * (made - weight)).sum()))
        assert lost[0] == pytest.approx(told, rel=1e-5, abs=1e-6)
        assert lost[0] < lost[1] or lost[1] == pytest.approx(0, abs=1e-6)


def test_ranks_that_are_spread_by_the_expected_loss_lose_less_than_the_same_share(mlp, apply_steps, given_batches):
    data, loss = given_batches(mlp[1].architecture), {}
    found = learned(Model.of_checkpoint(*mlp), mlp[1].layers, data.batches, 0, None, Silent(), as_learned)
    for allocation in ("auto", "layer"):
        model, outcomes = apply_steps(mlp, ("low_rank", {**WHITENED, "allocation": allocation}), data=data)
        assert all(outcome.ok for outcome in outcomes)
        assert sum(model.weights[f"{n}.weight"].plan.params for n in (0, 2)) <= 0.5 * (64 * 48 + 480)
        loss[allocation] = 0.0
        for name in ("0", "2"):
            change = model.weights[f"{name}.weight"].decode() - weight(mlp, f"{name}.weight")
            known = found.of(name)
            loss[allocation] += float(((known["g"] @ change @ known["h"]) * change).sum())
    assert 0 < loss["auto"] < loss["layer"]


def as_learned(found):
    return {"g": found.gradients[0], "h": found.inputs.mean[0]}


def test_where_nothing_goes_back_the_outputs_count(mlp, apply_steps, given_batches, monkeypatch):
    data = given_batches(mlp[1].architecture)
    plainly, _ = apply_steps(mlp, ("low_rank", {**WHITENED, "counts": "outputs"}), data=data)
    known, _ = apply_steps(mlp, ("low_rank", WHITENED), data=data)
    monkeypatch.setattr(DrawnLoss, "of", lambda self, index, answers: answers[0].detach().sum())
    without, outcomes = apply_steps(mlp, ("low_rank", WHITENED), data=data)
    assert "no gradients" in outcomes[0].note
    for name, encoded in plainly.weights.items():
        assert torch.equal(encoded.decode(), without.weights[name].decode())
    assert not torch.equal(known.weights["0.weight"].decode(), plainly.weights["0.weight"].decode())


def test_whitened_needs_data_and_plain_does_not(mlp, apply_steps):
    low_rank = technique("low_rank")
    assert low_rank.needs_for(low_rank.Settings()) == frozenset()
    assert "calibration" in low_rank.needs_for(low_rank.Settings(method="whitened"))
    with pytest.raises(DatasetUnfit):
        apply_steps(mlp, ("low_rank", WHITENED))


MODELS = [("LlamaForCausalLM", "llama"), ("GPT2LMHeadModel", "gpt2"), ("BertModel", "bert")]


@pytest.mark.parametrize("form", [FACTORS, PIVOTS])
@pytest.mark.parametrize(("name", "model_type"), MODELS)
def test_transformers_answer_from_their_file_as_in_memory(
    bench, tiny, tmp_path, apply_steps, given_batches, name, model_type, form
):
    tiny(name, model_type).save_pretrained(tmp_path / "model")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
    spec, checkpoint = facts.architecture, (bench.out, facts)
    own = {**WHITENED, "ratio": 0.7, "allocation": "layer", **form}
    steps = [("low_rank", own), ("weight_quantization", {"bits": 8})]
    model, _ = apply_steps(checkpoint, steps[0], data=given_batches(spec))
    factored = [e for e in model.weights.values() if isinstance(e, Factored | Pivoted)]
    assert len(factored) >= 8
    batch = synthetic(spec, 7)
    with torch.inference_mode():
        apart = outputs(build(model), spec, batch)
        dense = Model({n: Dense(e.decode()) for n, e in model.weights.items()}, model.tied, spec)
        assert torch.allclose(apart, outputs(build(dense), spec, batch), atol=1e-4)  # factors run as their product
        for upto in (1, 2):
            model, _ = apply_steps(checkpoint, *steps[:upto], data=given_batches(spec))
            write_model(model, tmp_path / "m.safetensors")
            again = read_model(tmp_path / "m.safetensors")
            assert {n: e.plan for n, e in again.weights.items()} == {n: e.plan for n, e in model.weights.items()}
            assert torch.equal(outputs(build(again), spec, batch), outputs(build(model), spec, batch))


def test_a_model_that_reads_the_stride_of_its_convolutions_runs_with_their_factors(bench, tiny, tmp_path, apply_steps):
    small = {"image_size": 32, "depth_multiplier": 0.25, "finegrained_output": False}  # its padding is TensorFlow's
    tiny("MobileNetV2ForImageClassification", "mobilenet_v2", **small).save_pretrained(tmp_path / "model")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
    model, _ = apply_steps((bench.out, facts), ("low_rank", {"by": "rank", "rank": 2}))
    dense = Model({n: Dense(e.decode()) for n, e in model.weights.items()}, model.tied, facts.architecture)
    batch = synthetic(facts.architecture, 7)
    with torch.inference_mode():
        answers = [outputs(build(each), facts.architecture, batch) for each in (model, dense)]
    assert "conv_stem.first_conv.convolution.weight" in {
        n.partition(".")[2] for n, e in model.weights.items() if e.leaves
    }
    assert torch.allclose(*answers, atol=1e-4)


@pytest.fixture
def cnn(inspected):
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 16, 3, padding=1), nn.Conv2d(16, 10, 1)]
    layers = [layer for conv in convolutions for layer in (conv, nn.ReLU(), nn.MaxPool2d(2))]
    return inspected(nn.Sequential(*layers, nn.Flatten(), nn.Linear(40, 10)))


FORMS = [
    ({"convolutions": "tucker"}, FactoredConv),
    ({"convolutions": "spatial"}, FactoredConv),
    ({"convolutions": "matrix", **FACTORS}, FactoredConv),
    ({"convolutions": "matrix", **PIVOTS}, Pivoted),
]


@pytest.mark.parametrize("method", ["plain", "whitened"])
@pytest.mark.parametrize(("form", "kind"), FORMS)
def test_convolutions_run_as_their_factors_and_can_be_quantized(
    cnn, tmp_path, apply_steps, given_batches, method, form, kind
):
    spec = cnn[1].architecture
    assert spec.family == "cnn"
    data, x = given_batches(spec), synthetic(spec, 9).inputs["x"]
    own = {"method": method, "ratio": 0.6, "allocation": "layer", **form}
    steps = [("low_rank", own), ("weight_quantization", {"bits": 8})]
    model, outcomes = apply_steps(cnn, steps[0], data=data)
    assert not any(outcome.skipped for outcome in outcomes)
    assert isinstance(model.weights["3.weight"], kind)
    assert model.weights["3.weight"].plan.params <= 0.6 * 12 * 16 * 9
    dense = Model({n: Dense(e.decode()) for n, e in model.weights.items()}, model.tied, spec)
    with torch.inference_mode():
        assert torch.allclose(build(model)(x), build(dense)(x), atol=1e-4)
    for upto in (1, 2):
        model, _ = apply_steps(cnn, *steps[:upto], data=data)
        size = write_model(model, tmp_path / "m.safetensors")
        if upto == 1:
            assert size == predict(cnn[1], Recipe.read({"steps": [recipe_step(*steps[0])]})).after.size_bytes
        again = read_model(tmp_path / "m.safetensors")
        with torch.inference_mode():
            assert torch.equal(build(again)(x), build(model)(x))


def recipe_step(name, values):
    return {"technique": name, "settings": values}


@pytest.mark.parametrize(("form", "kind"), FORMS)
def test_convolutions_whitened_answer_no_worse_than_plain(cnn, apply_steps, given_batches, form, kind):
    data, original = given_batches(cnn[1].architecture), build(Model.of_checkpoint(*cnn))
    errors = {}
    for method in ("plain", "whitened"):
        model, _ = apply_steps(cnn, ("low_rank", {"method": method, "ratio": 0.4, **form}), data=data)
        with torch.inference_mode():
            batches = [batch.inputs["x"] for batch in data.batches]
            errors[method] = sum((build(model)(x) - original(x)).square().sum() for x in batches)
    assert errors["whitened"] < errors["plain"]


@pytest.mark.parametrize("kernel", ["tucker", "spatial", "matrix"])
def test_the_energy_that_is_told_is_that_of_the_factors(cnn, apply_steps, kernel):
    before = Model.of_checkpoint(*cnn)
    model, outcomes = apply_steps(cnn, ("low_rank", {"ratio": 0.3, "convolutions": kernel}))
    for outcome in outcomes:
        original, made = (side.weights[f"{outcome.layer}.weight"].decode().double() for side in (before, model))
        kept = 1 - (original - made).square().sum() / original.square().sum()
        assert f"{percent(float(kept))} of its energy" in outcome.done


def test_grouped_convolutions_are_left_with_the_reason():
    layer = LayerFacts(name="a", weight="a.weight", kind="conv", shape=(8, 1, 3, 3), groups=8)
    low_rank = technique("low_rank")
    with pytest.raises(Skip, match="8 groups"):
        low_rank.plan(layer, DensePlan(layer.shape, "float32"), low_rank.Settings())


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(
        [(1, 1), (1, 9), (9, 1), (7, 5), (5, 12), (4, 3, 3), (24, 4, 3), (3, 1, 3, 3), (6, 4, 1, 1), (5, 4, 3, 1)]
    ),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.sampled_from(["ordinary", "dead column", "all zeros", "rank one"]),
    st.fixed_dictionaries(
        {
            "by": st.sampled_from(["ratio", "rank", "energy"]),
            "ratio": st.sampled_from([0.01, 0.5, 0.95]),
            "rank": st.sampled_from([1, 3]),
            "form": st.sampled_from(["pivots", "factors"]),
            "convolutions": st.sampled_from(["tucker", "spatial", "matrix"]),
            "allocation": st.sampled_from(["layer", "global"]),
        }
    ),
)
@example((24, 4, 3), torch.float32, "ordinary", {"ratio": 0.2})  # more outputs than one input has places for
def test_any_shape_and_dtype_is_factored_as_planned_or_left_with_a_reason(shape, dtype, kind, values):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    if kind == "dead column":
        tensor[:, 0] = 0
    elif kind == "all zeros":
        tensor.zero_()
    elif kind == "rank one":
        tensor = tensor[:1].expand(shape).clone()
    tensor = tensor.to(dtype)
    layer = LayerFacts(name="a", weight="a.weight", kind="conv" if len(shape) > 2 else "linear", shape=shape)
    low_rank, model = technique("low_rank"), Model({"a.weight": Dense(tensor)})
    told = low_rank.Settings(**values)
    (outcome,) = low_rank.apply(model, StepSettings(told), Context([layer], 0, Silent()))
    made = model.weights["a.weight"]
    if outcome.skipped:
        assert outcome.note
        assert made.plan.plain
        return
    assert made.shape == shape
    assert made.dtype == dtype
    assert made.decode().isfinite().all()
    if made.plan.plain:
        assert "made the room" in outcome.note
        return
    assert made.plan.params < tensor.numel()
    if low_rank.exact(told):
        planned = low_rank.plan(layer, DensePlan(shape, str(dtype)[6:]), told)
        assert made.plan.parts == planned.parts
        assert made.plan.meta == planned.meta
    if kind == "all zeros" or (kind == "rank one" and len(shape) == 2):
        assert torch.allclose(made.decode().float(), tensor.float(), rtol=0.05, atol=0.03)
