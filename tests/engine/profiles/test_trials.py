"""What options would make of a matrix, tried without running anything: about as much is lost as when they are done."""

import pytest
import torch

from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, LayerFacts, TensorFacts
from webapp.engine.profiles.facts import OptionStep
from webapp.engine.profiles.options import layer_options
from webapp.engine.profiles.trials import changes, rows_apart
from webapp.engine.progress import Silent
from webapp.engine.techniques import Context, technique
from webapp.engine.techniques.calibration import Covariance, WeightMatrix
from webapp.engine.weights import Dense
from webapp.engine.weights.model import Model

DONE = 8  # options that are done too, which takes longer
SPEC = ArchitectureSpec(family="sequential", title="a layer", task=None, config={})


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def posed(shape, dtype=torch.float32, kind="linear", **more):
    """A matrix, and the covariance of inputs that are far from alike."""
    layer = LayerFacts(name="a", weight="a.weight", kind=kind, shape=shape, **more)
    weight = (0.1 * seeded(*shape)).to(dtype)
    matrix = WeightMatrix(layer, "a", "", layer.layout, Model({"a.weight": Dense(weight)}))
    columns = matrix.floats().shape[1]
    inputs = Covariance(layer.groups, columns)
    mix = seeded(columns, columns, seed=1) * torch.linspace(0.05, 1.0, columns)
    inputs.add(seeded(400, layer.groups, columns, seed=2) @ mix)
    return matrix, inputs


def choices_of(matrix, large=False):
    """Of a layer that is all of its model, or a small share of it, which has fewer."""
    layer, dtype = matrix.layer, str(matrix.encoded.dtype).removeprefix("torch.")
    tensor = TensorFacts(name=layer.weight, shape=layer.shape, dtype=dtype)
    rest = () if large else (TensorFacts(name="rest", shape=(1000, *layer.shape), dtype=dtype),)
    facts = CheckpointFacts(
        format="safetensors", tensors=(tensor, *rest), layers=(layer,), weights_bytes=0, architecture=SPEC
    )
    (choice,) = (each for each in layer_options(facts) if each.name == layer.name)
    return choice.options[1:]


def lost(change, matrix, inputs):
    """The share of the squared outputs."""
    parts = zip(change.chunk(inputs.groups), matrix.floats().chunk(inputs.groups), inputs.mean, strict=True)
    errors = [(float(((c @ h) * c).sum()), float(((w @ h) * w).sum())) for c, w, h in parts]
    return sum(error for error, _ in errors) / sum(whole for _, whole in errors)


def really_lost(matrix, inputs, step):
    """After the technique's own way with one matrix."""
    found = technique(step.technique)
    settings = found.Settings.model_validate(step.settings)
    statistic = found.statistic(inputs.groups, inputs.columns)
    rows = seeded(400, inputs.groups, inputs.columns, seed=2)
    mix = seeded(inputs.columns, inputs.columns, seed=1) * torch.linspace(0.05, 1.0, inputs.columns)
    for batch in (rows @ mix).split(50):
        statistic.add(batch)
    encoded, _ = found.compress_matrix(matrix, statistic, settings, Context([matrix.layer], 0, Silent()))
    return lost(matrix.layout.matrix(encoded.decode().float()) - matrix.floats(), matrix, inputs)


SHAPES = {
    "linear": {"shape": (96, 64)},
    "bfloat16": {"shape": (96, 64), "dtype": torch.bfloat16},
    "Conv1D": {"shape": (64, 96), "transposed": True},
    "convolution": {"shape": (24, 8, 3, 3), "kind": "conv"},
    "grouped convolution": {"shape": (24, 8, 3, 3), "kind": "conv", "groups": 3},
}


@pytest.mark.parametrize("case", SHAPES)
def test_every_option_is_tried_and_loses_about_what_it_really_does(case):
    matrix, inputs = posed(**SHAPES[case])
    options = choices_of(matrix, large=case == "bfloat16")
    found = dict(changes(matrix, inputs, [option.steps for option in options]))
    assert len(found) == len(options)
    alone = [index for index, option in enumerate(options) if len(option.steps) == 1]
    done = alone[:: -(-len(alone) // DONE)]
    for index, option in enumerate(options):
        assert found[index].shape == matrix.floats().shape
        tried = lost(found[index], matrix, inputs)
        assert 0 < tried < 1, option.label
        step = option.steps[0]
        if index in done and step.technique in ("gptq", "sparsegpt"):
            assert 0.6 < tried / really_lost(matrix, inputs, step) < 2, option.label


@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES)
def test_of_one_kind_of_option_the_larger_loses_less(case):
    matrix, inputs = posed(**case)
    kinds = {}
    for option in choices_of(matrix):
        if [step.technique for step in option.steps] == ["gptq"] and option.steps[0].settings["numbers"] == "int":
            kinds.setdefault("int", []).append(option)
        if option.label.endswith("% sparsity"):
            kinds.setdefault("pruned", []).append(option)
    for options in kinds.values():
        found = dict(changes(matrix, inputs, [option.steps for option in options]))
        losses = [lost(found[index], matrix, inputs) for index in range(len(options))]  # the largest comes first
        assert len(losses) > 2
        assert losses == sorted(losses)


@pytest.mark.parametrize("case", ["linear", "bfloat16", "Conv1D", "convolution"])
def test_some_rows_are_rounded_as_within_the_whole(case):
    matrix, inputs = posed(**SHAPES[case])
    chains = [option.steps for option in choices_of(matrix) if [s.technique for s in option.steps] == ["gptq"]]
    rows = torch.tensor([3, 1, 20])
    whole, some = dict(changes(matrix, inputs, chains)), dict(changes(matrix.some_rows(rows), inputs, chains))
    assert all(map(rows_apart, chains))
    for index in range(len(chains)):
        torch.testing.assert_close(some[index], whole[index][rows])


def test_factors_need_all_rows():
    assert not rows_apart([OptionStep(technique="low_rank"), OptionStep(technique="gptq")])


@pytest.mark.parametrize("case", ["linear", "Conv1D"])
@pytest.mark.parametrize("form", ["pivots", "factors"])
def test_rounded_factors_answer_as_their_inputs_need_it(case, form):
    """Each factor is rounded with what the one before it puts out, so less is lost than without data."""
    matrix, inputs = posed(**SHAPES[case])
    first = OptionStep(technique="low_rank", settings={"method": "whitened", "ratio": 0.7, "form": form})
    rounding = {"bits": 3, "granularity": "channel"}
    chains = [
        [first],
        *([first, OptionStep(technique=name, settings=rounding)] for name in ("gptq", "weight_quantization")),
    ]
    found = dict(changes(matrix, inputs, chains))
    factored, rounded, plainly = (lost(found[index], matrix, inputs) for index in range(3))
    assert factored < rounded < plainly


def test_zeros_of_a_first_step_stay():
    matrix, inputs = posed((96, 64))
    steps = [OptionStep(technique="sparsegpt", settings={"sparsity": 0.5}), OptionStep(technique="gptq")]
    found = dict(changes(matrix, inputs, [steps[:1], steps]))
    pruned, rounded = (matrix.floats() + found[index] for index in range(2))
    assert bool((rounded[pruned.abs() < 1e-7].abs() < 1e-7).all())
    assert not torch.equal(pruned, rounded)


def test_an_expert_is_a_matrix_of_its_own():
    layer = LayerFacts(name="a", weight="a.weight", kind="experts", shape=(3, 32, 64), groups=3, stacked=True)
    options = choices_of(WeightMatrix(layer, "a", "", layer.layout, Model({"a.weight": Dense(seeded(3, 32, 64))})))
    expert, inputs = posed((32, 64))
    found = dict(changes(expert, inputs, [option.steps for option in options]))
    assert len(found) == len(options)


@pytest.mark.parametrize("case", ["linear", "convolution"])
def test_where_nobody_saw_the_inputs_it_is_tried_without_them(case):
    matrix, inputs = posed(**SHAPES[case])
    options = choices_of(matrix)
    found = dict(changes(matrix, None, [option.steps for option in options]))
    assert len(found) == len(options)
    empty = dict(changes(matrix, Covariance(1, inputs.columns), [option.steps for option in options]))
    assert all(torch.equal(found[index], empty[index]) for index in found)


def test_a_cast_beyond_the_range_is_left_out():
    matrix, inputs = posed((8, 8))
    matrix.model.weights["a.weight"] = Dense(torch.full((8, 8), 1e6))
    chains = [[OptionStep(technique="cast", settings={"dtype": dtype})] for dtype in ("float16", "bfloat16")]
    assert [index for index, _ in changes(matrix, inputs, chains)] == [1]


def test_inputs_that_tell_nothing_do_no_harm():
    matrix, inputs = posed((96, 64))
    inputs.sums.zero_()
    options = choices_of(matrix)
    found = dict(changes(matrix, inputs, [option.steps for option in options]))
    assert len(found) == len(options)
    assert all(bool(change.isfinite().all()) for change in found.values())


def test_inputs_that_hardly_speak_leave_no_matrix_without_numbers():
    """Squares of 3e-23 have one digit left: a covariance of them is not even positive."""
    matrix, _ = posed((24, 64))
    faint = Covariance(1, 64)
    faint.add(3e-23 * seeded(8, 1, 64, seed=2) * torch.linspace(0.01, 1, 64) ** 3)
    assert float(faint.sums.abs().max()) > 0
    options = choices_of(matrix)
    found = dict(changes(matrix, faint, [option.steps for option in options]))
    assert len(found) == len(options)
    assert all(bool(change.isfinite().all()) for change in found.values())
