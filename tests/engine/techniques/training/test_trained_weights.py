"""What is trained keeps its form: the plan stays the plan, zeros stay zero, and integers on their grid."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.engine.techniques.training.lessons import after, blobs, trained, values
from webapp.engine.weights import Quantized
from webapp.engine.weights.artifact import read_model, write_model

STEPS = {
    "dense": [],
    "4 bits in groups": [("weight_quantization", {"bits": 4, "granularity": "group", "group_size": 16})],
    "asymmetric": [("weight_quantization", {"bits": 4, "symmetric": False})],
    "pruned and 4 bits": [("magnitude_pruning", {"sparsity": 0.7}), ("weight_quantization", {"bits": 4})],
    "factors in 4 bits": [("low_rank", {"ratio": 0.5}), ("weight_quantization", {"bits": 4})],
}
LORA = ({}, {"lora_rank": 3})


def zeros_of(model):
    """Of every simple weight that a step pruned: where its zeros are."""
    leaves = {name: encoded.leaves for name, encoded in model.weights.items()}
    return {
        (name, number): leaf.decode() == 0
        for name, found in leaves.items()
        for number, leaf in enumerate(found)
        if leaf.plan.pruned
    }


def forms_of(model):
    """Everything that a plan says, but for how many zeros there are by chance."""
    told = {}
    for name, encoded in model.weights.items():
        told[name] = [
            (leaf.plan.kind if leaf.plan.pruned else type(leaf), leaf.shape, leaf.dtype, leaf.plan.pruned)
            + ((leaf.grid.bits, leaf.grid.group, leaf.layout) if isinstance(leaf, Quantized) else ())
            for leaf in encoded.leaves
        ]
    return told


def check(model, before, outcome, tmp_path):
    assert outcome.ok, outcome
    old, forms, zeros = before
    assert forms_of(model) == forms
    for key, were in zeros.items():
        assert bool(zeros_of(model)[key][were].all()), f"{key} has values where a step had put zeros"
    assert any(not torch.equal(old[name], new) for name, new in values(model).items()), "nothing was trained"
    write_model(model, tmp_path / "trained.safetensors")
    again = read_model(tmp_path / "trained.safetensors")
    assert all(torch.equal(again.weights[name].decode(), new) for name, new in values(model).items())
    return again


@pytest.mark.parametrize("steps", [[], STEPS["pruned and 4 bits"]], ids=["dense", "pruned and 4 bits"])
def test_a_convolution_with_batch_norm_keeps_its_form(inspected, tmp_path, steps):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 16, 10))
    net[1].running_mean += 0.3
    state = {"conv.weight": net[0].weight, "conv.bias": net[0].bias}
    state |= {f"norm.{name}": value for name, value in net[1].state_dict().items()}
    state |= {"fc.weight": net[3].weight, "fc.bias": net[3].bias}
    folder, facts = inspected({name: value.detach() for name, value in state.items()})
    model = after(folder, facts, *steps)
    before = values(model), forms_of(model), zeros_of(model)
    half = blobs(features=64, shape=(1, 8, 8)) if facts.architecture.inputs["shape"][1] == 8 else None
    half = half or blobs(features=16, shape=(1, 4, 4))
    outcome = trained("fine_tune", model, facts, half, epochs=2, learning_rate=0.01)
    check(model, before, outcome, tmp_path)
    assert not torch.equal(before[0]["norm.running_mean"], model.weights["norm.running_mean"].decode())


@pytest.mark.parametrize("lora", LORA, ids=["whole", "lora"])
@pytest.mark.parametrize("name", ["dense", "pruned and 4 bits", "factors in 4 bits", "4 bits in groups"])
def test_gpt2_whose_matrices_are_transposed_keeps_its_form(tiny, bench, save_tokenizer, tmp_path, name, lora):
    folder, facts, tokenizer, half = language_model(tiny, bench, save_tokenizer, "GPT2LMHeadModel", "gpt2")
    model = after(folder, facts, *STEPS[name])
    before = values(model), forms_of(model), zeros_of(model)
    outcome = trained(
        "fine_tune", model, facts, half, tokenizer=tokenizer, epochs=1, batch_size=4, learning_rate=0.01, **lora
    )
    again = check(model, before, outcome, tmp_path)
    assert again.tied == facts.tied  # the head is still the embedding


@pytest.mark.parametrize("name", ["factors in 4 bits", "4 bits in groups"])
def test_scales_alone_of_transposed_matrices_and_factors(tiny, bench, save_tokenizer, tmp_path, name):
    folder, facts, tokenizer, half = language_model(tiny, bench, save_tokenizer, "GPT2LMHeadModel", "gpt2")
    model = after(folder, facts, *STEPS[name])
    before, codes = (values(model), forms_of(model), zeros_of(model)), codes_of(model)
    own = {"tokenizer": tokenizer, "teacher": after(folder, facts), "epochs": 0.5, "batch_size": 4, "trains": "scales"}
    check(model, before, trained("distillation", model, facts, half, **own), tmp_path)
    assert all(torch.equal(codes[key], now) for key, now in codes_of(model).items())


def test_where_scales_alone_are_trained_a_vector_moves_by_a_share_of_its_size(mlp):
    model = after(*mlp, ("weight_quantization", {"bits": 2}))
    old = {name: value for name, value in values(model).items() if value.dim() == 1}
    own = {"epochs": 0.01, "validation": 0.0, "schedule": "constant", "warmup": 0.0, "trains": "scales"}  # one step
    trained("distillation", model, mlp[1], blobs(), teacher=after(*mlp), learning_rate=0.03, **own)
    for name, before in old.items():
        moved = (values(model)[name] - before).abs().max()
        assert moved.item() == pytest.approx(0.03 * before.square().mean().sqrt().item(), rel=1e-2)


def codes_of(model):
    leaves = {name: encoded.leaves for name, encoded in model.weights.items()}
    return {
        (name, number): leaf.codes
        for name, found in leaves.items()
        for number, leaf in enumerate(found)
        if isinstance(leaf, Quantized)
    }


def language_model(tiny, bench, save_tokenizer, class_name, model_type):
    from webapp.engine.architectures import architectures
    from webapp.engine.data.datasets import Text

    source = bench.root / class_name
    tiny(class_name, model_type).save_pretrained(source)
    save_tokenizer(source)
    facts = bench.checkpoint(bench.zip_folder(source, f"{class_name}.zip"))
    tokenizer = architectures()["transformers"].tokenizer(facts.architecture, bench.out)
    text = "the cat sat on the mat . a dog ran on a good mat . the bad dog sat . " * 30
    return bench.out, facts, tokenizer, Text(text)


SHAPES = [(1, 1), (1, 9), (9, 1), (5, 7), (2, 33)]


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(SHAPES),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from(["as it is", "dead column", "zeros"]),
    st.sampled_from(["dense", "pruned and 4 bits", "asymmetric"]),
)
def test_any_shape_and_dtype_trains_to_numbers(inspected, shape, dtype, state, name):
    torch.manual_seed(0)
    rows, columns = shape
    weight = torch.randn(rows, columns)
    weight[:, 0 if state == "dead column" else slice(0, columns if state == "zeros" else 0)] = 0
    net = {"0.weight": weight, "0.bias": torch.zeros(rows), "2.weight": torch.randn(2, rows), "2.bias": torch.ones(2)}
    folder, facts = inspected({name: tensor.to(dtype) for name, tensor in net.items()})
    model = after(folder, facts, *STEPS[name])
    forms, zeros = forms_of(model), zeros_of(model)
    trained("fine_tune", model, facts, blobs(24, columns, 2), epochs=1, learning_rate=0.01)
    assert forms_of(model) == forms
    assert all(bool(zeros_of(model)[key][were].all()) for key, were in zeros.items())
    assert all(bool(torch.isfinite(value).all()) for value in values(model).values())
