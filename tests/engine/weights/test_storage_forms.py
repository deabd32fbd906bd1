"""The contract of storage forms, for each that is found: planned to the byte, written, read, run, trained, delivered.

Two forms are added here, one file each: they have to keep it with nothing else being told of them.
"""

import shutil
import sys
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.engine.exporters.test_one_value import assert_exact
from tests.engine.techniques.training.lessons import blobs, trained
from tests.engine.weights.examples import (
    DTYPES,
    EXAMPLES,
    MATRICES,
    RANK,
    SHAPES,
    W,
    composite,
    dense,
    quantized,
    values,
)
from webapp.engine import weights as package
from webapp.engine.architectures.build import build, leaves_of
from webapp.engine.architectures.factored_layers import FactoredModule
from webapp.engine.errors import CheckpointRefused, ExportUnfit, RecipeInvalid
from webapp.engine.exporters import check_formats, exporters
from webapp.engine.importers.inspect import inspect_checkpoint
from webapp.engine.math.grids import QuantizationScheme
from webapp.engine.progress import Silent
from webapp.engine.run.measure import measure_file
from webapp.engine.techniques import techniques
from webapp.engine.weights import Composite, Dense, DensePlan, Quantized, dtype_name, form_of, forms
from webapp.engine.weights.artifact import predicted_size, read_model, write_model
from webapp.engine.weights.model import Model

ADDED = Path(__file__).parent / "added_forms"


@pytest.fixture
def found_in(monkeypatch):
    """Looks for forms in more folders than its own, and forgets afterwards what it found there."""

    def look(*folders):
        monkeypatch.setattr(package, "__path__", [*package.__path__, *map(str, folders)])
        forms.cache_clear()

    before = set(sys.modules)
    yield look
    forms.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith(f"{package.__name__}."):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def added(found_in):
    found_in(ADDED)


def signs(*shape):
    def make(dtype):
        drawn = values(*shape)
        return form_of("signs")(drawn >= 0, drawn.abs().mean(1), dtype)

    return make


ADDED_EXAMPLES = {
    "signs": signs(W, W),
    "three factors": lambda dtype: composite(
        form_of("three_factors"), dense(W, 8), quantized(8, 8, bits=4), signs(8, W)
    )(dtype),
}
CHAIN = MATRICES | ADDED_EXAMPLES
EVERY = EXAMPLES | ADDED_EXAMPLES


def read_back(encoded):
    parts, plan = encoded.parts(), encoded.plan
    stored = {name: (tuple(t.shape), dtype_name(t.dtype)) for name, t in parts.items()}
    assert stored == {p.name: (p.shape, p.dtype) for p in plan.parts}
    assert plan.bytes == sum(t.numel() * t.element_size() for t in parts.values())
    form = form_of(plan.meta["kind"])
    assert form is type(encoded)
    assert set(parts) <= set(form.suffixes(plan.meta))
    return form.from_parts(parts, plan.meta)


def told_by(plan):
    """What a plan says; of a layout a manifest keeps what reading the weight takes."""
    return plan.label, plan.meta, plan.parts, plan.params, plan.nonzero, plan.stored


def test_every_form_that_is_found_has_an_example_and_is_documented():
    assert {make(torch.float32).plan.kind for make in EVERY.values()} == set(forms())
    page = (Path(__file__).parents[3] / "docs/the-file-format.md").read_text()
    assert not [kind for kind in set(forms()) - {"signs", "three_factors"} if f"| `{kind}` |" not in page]


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_it_reads_back_bit_for_bit_and_its_plan_says_what_is_stored(make):
    for dtype in DTYPES.values():
        encoded = make(dtype)
        again = read_back(encoded)
        assert torch.equal(again.decode(), encoded.decode())
        assert told_by(again.plan) == told_by(encoded.plan)
        assert (again.shape, again.dtype) == (encoded.decode().shape, dtype)
        assert encoded.decode().dtype == encoded.value_dtype == (dtype if isinstance(encoded, Dense) else torch.float32)
        assert encoded.plan.stored <= encoded.plan.params


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_a_change_is_made_to_each_of_its_simple_weights(make):
    encoded = make(torch.float32)
    assert not any(leaf.factors for leaf in encoded.leaves)
    assert [leaf.plan for leaf in encoded.leaves] == list(encoded.plan.leaves)
    assert encoded.plan.mapped(lambda plan: plan) == encoded.plan
    assert torch.equal(encoded.mapped(lambda leaf: leaf).decode(), encoded.decode())
    halved = encoded.mapped(lambda leaf: Dense(leaf.decode().half()))
    planned = encoded.plan.mapped(lambda plan: DensePlan(plan.shape, "float16"))
    assert (halved.plan.parts, halved.plan.label) == (planned.parts, planned.label)
    assert torch.allclose(halved.decode().float(), encoded.decode(), atol=1e-2)
    for leaf in encoded.leaves:
        same = leaf.with_values(leaf.decode())
        assert (type(same), same.plan) == (type(leaf), leaf.plan)
        assert torch.allclose(same.decode(), leaf.decode(), rtol=1e-6)


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_in_training_floats_become_what_is_stored_and_gradients_pass(make):
    for leaf, transposed in product(make(torch.float32).leaves, (False, True)):
        if transposed and len(leaf.shape) != 2:
            continue
        form = leaf.in_training(transposed, torch.device("cpu"), train_scales=False)
        held = leaf.decode().t() if transposed else leaf.decode()
        moved = (held + torch.where(held != 0, 1e-3, 0.0)).requires_grad_()  # as training moves it
        now = form.rounded(moved)
        stored = form.encoded(moved.detach()).decode()
        assert torch.allclose(now, stored.t() if transposed else stored, atol=1e-6)
        now.sum().backward()
        assert bool((moved.grad == 1).float().mean() > 0.9)  # all but what lies beyond a grid


def model_of(checkpoint, dtype=torch.float32):
    """The chain with a layer in each form."""
    model = Model.of_checkpoint(*checkpoint)
    for name, encoded in model.weights.items():
        model.weights[name] = Dense(encoded.decode().to(dtype))
    for number, make in enumerate(CHAIN.values()):
        model.weights[f"{2 * number}.weight"] = make(dtype)
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A chain of equal layers."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    layers = [part for _ in CHAIN for part in (nn.Linear(W, W), nn.ReLU())]
    torch.save(nn.Sequential(*layers, nn.Linear(W, 10)).state_dict(), folder / "chain.pt")
    return folder, inspect_checkpoint(folder / "chain.pt", "chain.pt", folder, Silent())


def test_a_file_is_as_large_as_was_predicted_and_its_receipt_names_each_form(checkpoint, tmp_path):
    for dtype in DTYPES.values():
        model, path = model_of(checkpoint, dtype), tmp_path / "model.safetensors"
        size = write_model(model, path)
        plans = {name: encoded.plan for name, encoded in model.weights.items()}
        assert size == path.stat().st_size == predicted_size(plans, {}, model.architecture)[1]
        again = read_model(path)
        assert {name: encoded.plan for name, encoded in again.weights.items()} == plans
        told = {each["weight"]: each["storage"] for each in measure_file(path, again, checkpoint[1])["layers"]}
        assert all(told[name] == plan.label for name, plan in plans.items() if name.endswith("weight"))
        assert {"signs", "three factors: dense " + dtype_name(dtype)} <= set(told.values())


def test_a_model_answers_as_its_decoded_weights(checkpoint):
    model = model_of(checkpoint)
    module, x = build(model), blobs(5, W).x
    parts = [part for part in module.modules() if isinstance(part, FactoredModule)]
    assert len(parts) == sum(isinstance(encoded, Composite) for encoded in model.weights.values())
    expected = x
    for number in range(len(CHAIN) + 1):
        weight, bias = (model.weights[f"{2 * number}.{part}"].decode() for part in ("weight", "bias"))
        expected = nn.functional.linear(expected.relu() if number else x, weight, bias)
    assert torch.allclose(module(x), expected, atol=1e-4)


GEOMETRIES = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": 2, "dilation": 2},
    {"padding": 1, "bias": False},
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"padding": "same", "padding_mode": "circular"},
    {"stride": (1, 2), "padding": (2, 1), "padding_mode": "reflect"},
]
LAYERS = {name: shaped for name, shaped in SHAPES.items() if shaped.layer}


@pytest.mark.parametrize("example", LAYERS.values(), ids=LAYERS)
def test_products_with_factors_answer_as_the_layer_that_they_stand_for(example):
    torch.manual_seed(0)
    encoded, tried = example.make(torch.float32), 0
    for geometry in GEOMETRIES:
        try:
            whole = example.layer(**geometry)
        except (TypeError, ValueError):
            continue  # no geometry of such a layer
        if "stride" in geometry and isinstance(geometry["stride"], tuple) and len(whole.kernel_size) != 2:
            continue
        assert whole.weight.shape == encoded.shape
        whole.weight.data = encoded.decode()
        if whole.bias is not None:
            nn.init.normal_(whole.bias)
        part = FactoredModule(whole, encoded)
        state = {
            name: leaf.decode().t() if transposed else leaf.decode()
            for name, (leaf, transposed) in part.leaves(encoded).items()
        }
        part.load_state_dict(state | ({} if whole.bias is None else {part.bias_name: whole.bias}))
        inputs = encoded.shape[1 if isinstance(whole, nn.Conv1d | nn.Conv2d) else 0]
        places = len(getattr(whole, "kernel_size", ()))
        x = torch.randn(2, inputs, *(9, 8)[:places]) if places else torch.randn(3, inputs)
        assert torch.allclose(part(x), whole(x), atol=1e-5), geometry
        tried += 1
    assert tried >= (4 if places else 1)


def kinds_of(model):
    """Everything that a form keeps in training: all but how many zeros there are by chance."""
    told = {}
    for name, encoded in model.weights.items():
        for number, leaf in enumerate(encoded.leaves):
            about = [type(encoded), type(leaf), leaf.shape, leaf.dtype, leaf.plan.pruned]
            if isinstance(leaf, Quantized):
                about += [leaf.grid.bits, leaf.grid.group, leaf.layout, leaf.grid.zero_point is None]
            told[name, number] = about
    return told


@pytest.mark.parametrize("lora", [{}, {"lora_rank": 3}], ids=["whole", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_trained_and_keeps_its_form(checkpoint, tmp_path, dtype, lora):
    model = model_of(checkpoint, DTYPES[dtype])
    before = {name: [leaf.decode() for leaf in encoded.leaves] for name, encoded in model.weights.items()}
    pruned = {name for name, encoded in model.weights.items() if encoded.plan.pruned}
    assert len(pruned) == 4
    kinds = kinds_of(model)
    trained("fine_tune", model, checkpoint[1], blobs(64, W), epochs=4, learning_rate=0.02, patience=0, **lora)
    assert kinds_of(model) == kinds
    for name, old in before.items():
        for was, leaf in zip(old, model.weights[name].leaves, strict=True):
            now = leaf.decode()
            if name.endswith("weight"):
                assert not torch.equal(now, was), f"{name} was not trained"
            assert name not in pruned or bool((now[was == 0] == 0).all()), f"{name} has values where zeros were put"
    write_model(model, tmp_path / "trained.safetensors")
    again, x = read_model(tmp_path / "trained.safetensors"), blobs(8, W).x
    assert torch.equal(build(again)(x), build(model)(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["safetensors", "onnx", "program", pytest.param("savedmodel", marks=pytest.mark.slow)])
def test_it_has_the_same_values_in_every_format(checkpoint, tmp_path, dtype, name):
    if name == "savedmodel" and find_spec("tensorflow") is None:
        pytest.skip("tensorflow is not installed")
    _, told = assert_exact(name, model_of(checkpoint, DTYPES[dtype]), tmp_path)
    if name == "onnx":
        assert "Values that are stored as signs take 32 bits each." in told["notes"]


def test_what_is_looked_up_in_a_composite_weight_is_decoded(zoo):
    model, name = Model.of_checkpoint(*zoo.checkpoint("llama")), "model.embed_tokens.weight"
    rows, columns = model.weights[name].shape
    model.weights[name] = composite(form_of("factored"), dense(rows, 4), dense(4, columns))(torch.float32)
    module = build(model)
    assert torch.equal(module.model.embed_tokens.weight, model.weights[name].decode())
    assert isinstance(module.lm_head, FactoredModule) == (model.tied == {"lm_head.weight": name})
    assert leaves_of(model)[name] == (model.weights[name], False)


def test_formats_that_know_no_such_form_round_it_and_refuse_factors(zoo, tmp_path):
    folder, facts = zoo.checkpoint("llama")
    model, name = Model.of_checkpoint(folder, facts), "model.layers.0.self_attn.q_proj.weight"
    model.weights[name] = signs(*model.weights[name].shape)(torch.float32)
    for form, sentence in (
        ("gguf", f"{name}: there is no signs in GGUF, so it was rounded to 16-bit floats."),
        ("compressed_tensors", f"{name} is kept in 16-bit floats: there is no signs in compressed-tensors."),
    ):
        _, told = assert_exact(form, model, tmp_path)
        assert sentence in told["notes"]
    model.weights[name] = ADDED_EXAMPLES["three factors"](torch.float32)
    for form in ("gguf", "compressed_tensors"):
        with pytest.raises(ExportUnfit, match=f"{name} are low-rank factors"):
            exporters()[form].write(model, tmp_path)
        with pytest.raises(RecipeInvalid, match="low-rank factors, which have no place in it"):
            check_formats(facts, [form], ["dense", "three_factors"])


@pytest.mark.parametrize("name", ["weight_quantization", "magnitude_pruning", "low_rank"])
def test_a_step_that_changes_floats_refuses_other_values_by_their_name(name):
    assert techniques()[name].refuses(signs(4, 4)(torch.float32).plan).startswith("its values are stored as signs")
    assert techniques()[name].refuses(quantized(4, 4)(torch.float32).plan).startswith("its values are integers")


def test_a_kind_that_two_forms_claim_stops_the_program(found_in, tmp_path):
    shutil.copy(ADDED / "signs.py", tmp_path / "signs_again.py")
    found_in(tmp_path)
    with pytest.raises(RuntimeError, match="Two storage forms claim the kind 'signs'"):
        forms()


def test_a_form_that_cannot_be_imported_stops_the_program(found_in, tmp_path):
    (tmp_path / "broken_form.py").write_text("import a_library_that_is_not_there\n")
    found_in(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
        forms()


def test_a_form_that_is_not_here_is_refused_by_its_name(monkeypatch, tmp_path):
    write_model(Model({"w": signs(4, 4)(torch.float32)}), tmp_path / "model.safetensors")
    monkeypatch.setattr(package, "__path__", package.__path__[:1])
    forms.cache_clear()
    with pytest.raises(CheckpointRefused, match="stored as 'signs', a form that this version of Pare does not know"):
        read_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("pruned", lambda meta: meta | {"shape": [W, W + 8]}, "1280 values takes 160 bytes, and 128 are there"),
        ("pivots", lambda meta: meta | {"shape": [W, W + 1]}, r"a weight of shape \[32, 32\], not \[32, 33\]"),
        ("pivots", lambda meta: meta | {"shape": [RANK, W]}, "a bitmask of 8 values takes 1 bytes"),
        ("factors", lambda meta: {key: about for key, about in meta.items() if key != "left"}, "left"),
    ],
)
def test_parts_that_disagree_with_the_manifest_are_refused(name, change, sentence):
    encoded = EXAMPLES[name](torch.float32)
    with pytest.raises((KeyError, ValueError, RuntimeError), match=sentence):
        type(encoded).from_parts(encoded.parts(), change(encoded.plan.meta))


@pytest.mark.parametrize("name", ["pivots", "pivoted columns", "pivoted filters", "pivoted transposed filters"])
def test_pivoted_rows_are_those_of_the_basis_and_the_others_made_of_them(name):
    encoded = EXAMPLES[name](torch.float32)
    weight, basis, mix = (each.decode() for each in (encoded, *encoded.each))
    if encoded.transposed:
        weight, basis, mix = (each.transpose(0, 1) for each in (weight, basis, mix))
    assert torch.equal(weight[encoded.pivots], basis)
    assert torch.allclose(weight[~encoded.pivots].flatten(1), mix.flatten(1) @ basis.flatten(1), atol=1e-6)


shapes = st.lists(st.integers(1, 17), min_size=2, max_size=2).map(tuple) | st.just((3, 2, 3, 3))
schemes = st.builds(
    QuantizationScheme,
    bits=st.sampled_from([8, 6, 5, 4, 3, 2]),
    group=st.sampled_from([0, 4, 16]),
    symmetric=st.booleans(),
    numbers=st.sampled_from(["int", "normal", "fitted"]),
    search=st.booleans(),
)


@st.composite
def weights(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(draw(shapes), generator=generator).to(draw(st.sampled_from(list(DTYPES.values()))))
    weight[torch.rand(weight.shape, generator=generator) < draw(st.sampled_from([0.0, 0.03, 0.5, 1.0]))] = 0
    return weight


@settings(deadline=None, max_examples=40)
@given(weights(), st.booleans())
def test_dense_reads_back_bit_for_bit(weight, pruned):
    again = read_back(Dense(weight, zeros_wanted=pruned))
    assert torch.equal(again.decode(), weight)
    assert again.plan.nonzero == int((weight != 0).sum())


@settings(deadline=None, max_examples=40)
@given(weights(), schemes)
def test_quantized_reads_back_bit_for_bit_in_float32_and_keeps_zeros(weight, scheme):
    encoded = Quantized.nearest(weight, scheme)
    again = read_back(encoded)
    assert torch.equal(again.decode(), encoded.decode())
    assert again.plan == encoded.plan
    assert bool((encoded.decode()[weight == 0] == 0).all())
    assert encoded.decode().shape == weight.shape
    assert (encoded.decode().dtype, again.dtype) == (torch.float32, weight.dtype)


@settings(deadline=None, max_examples=40)
@given(weights(), st.sampled_from([8, 4]), st.booleans())
def test_error_of_rounding_is_at_most_half_a_step(weight, bits, symmetric):
    weight = weight.float()
    encoded = Quantized.nearest(weight, QuantizationScheme(bits, 0, symmetric))
    scale = encoded.grid.scale.float().abs().reshape(-1, *[1] * (weight.dim() - 1))
    # a scale is rounded to float16 (2^-11), which moves the outermost value by that share of the whole range
    bound = scale * (0.5 + 2**bits * 2**-11) + 1e-7
    assert bool(((encoded.decode() - weight).abs() <= bound).all())


def test_sparse_form_is_chosen_only_where_it_is_smaller():
    dense, sparse = torch.ones(100), torch.ones(100)
    dense[:3] = 0  # 3 values = 12 bytes saved, 13 bytes of mask
    sparse[:4] = 0
    assert Dense(dense, zeros_wanted=True).plan.kind == "dense"
    assert Dense(sparse, zeros_wanted=True).plan.kind == "sparse"
    assert Dense(sparse, zeros_wanted=True).plan.bytes == 96 * 4 + 13


def test_zeros_that_no_step_wanted_leave_the_tensor_to_every_reader():
    assert Dense(torch.zeros(100)).plan.plain


def test_extreme_rows_keep_their_values():
    weight = torch.tensor([[1e-30, -1e-30], [1e30, 5e29], [0.0, 0.0]])
    decoded = Quantized.nearest(weight, QuantizationScheme(8)).decode()
    assert torch.allclose(decoded, weight, rtol=0.01, atol=0)
