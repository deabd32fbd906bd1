"""Dynamic and static quantization: integers in the file, integers in the runtime, and the same answers from both."""

import json
from dataclasses import replace

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from webapp.engine.architectures.build import build
from webapp.engine.errors import RecipeInvalid
from webapp.engine.exporters import exporters
from webapp.engine.facts import PLAIN
from webapp.engine.techniques import integer_products, technique
from webapp.engine.techniques.integer_products import integers
from webapp.engine.weights import Quantized
from webapp.engine.weights.activations import Activations, Range
from webapp.engine.weights.artifact import read_model, write_model
from webapp.engine.weights.model import Model

DYNAMIC, STATIC = ("dynamic_quantization", {}), ("static_quantization", {})


@pytest.fixture
def cnn(inspected):
    """conv, norm, relu, conv, norm, relu, linear; its norms have seen data."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10),
    )  # fmt: skip
    for _ in range(20):
        layers(torch.randn(32, 1, 8, 8))
    names = ["conv1", "bn1", "", "conv2", "bn2", "", "", "fc"]
    state = {
        f"{name}.{key}": value
        for name, layer in zip(names, layers, strict=True)
        if name
        for key, value in layer.state_dict().items()
    }
    return inspected(state, "cnn")


def answers(model, x):
    with torch.inference_mode():
        return build(model)(x)


def in_onnxruntime(model, folder, x, optimized=None):
    folder.mkdir()
    exporters()["onnx"].write(model, folder)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", options)
    kernels = {node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node}
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]), kernels


@pytest.mark.parametrize("step", [DYNAMIC, ("dynamic_quantization", {"ranges": "tensor"}), STATIC], ids=str)
def test_a_saved_model_rounds_as_it_did_in_memory(mlp, apply_steps, given_batches, tmp_path, step):
    data = given_batches(mlp[1].architecture)
    model, outcomes = apply_steps(mlp, step, data=data)
    write_model(model, tmp_path / "m.safetensors")
    again, x = read_model(tmp_path / "m.safetensors"), data.batches[0].inputs["x"]
    assert again.activations == model.activations != {}
    assert torch.equal(answers(again, x), answers(model, x))
    assert not torch.equal(answers(again, x), answers(replace(model, activations={}), x))
    assert all(outcome.ok for outcome in outcomes)


@pytest.mark.parametrize("step", [DYNAMIC, ("dynamic_quantization", {"ranges": "tensor"}), STATIC], ids=str)
def test_onnxruntime_multiplies_integers_and_answers_as_torch_does(mlp, apply_steps, given_batches, tmp_path, step):
    data = given_batches(mlp[1].architecture)
    model, _ = apply_steps(mlp, step, data=data)
    x = data.batches[0].inputs["x"]
    found, kernels = in_onnxruntime(model, tmp_path / "out", x)
    assert kernels & {"MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm"}
    assert not kernels & {"MatMul", "Gemm", "DequantizeLinear"}
    rounded, exact = answers(model, x), answers(replace(model, activations={}), x)
    assert (found - rounded).norm() <= 0.2 * (rounded - exact).norm()


def test_convolutions_with_their_norms_become_one_integer_kernel(cnn, apply_steps, given_batches, tmp_path):
    data = given_batches(cnn[1].architecture)
    model, _ = apply_steps(cnn, STATIC, data=data)
    x = data.batches[0].inputs["x"]
    found, kernels = in_onnxruntime(model, tmp_path / "out", x)
    assert "QLinearConv" in kernels
    assert not kernels & {"Conv", "BatchNormalization", "Gemm"}
    exact = answers(Model.of_checkpoint(*cnn), x)
    assert (found - exact).norm() < 0.05 * exact.norm()
    assert (found - answers(model, x)).norm() < 0.02 * exact.norm()


def test_bias_correction_brings_the_mean_answer_back(cnn, apply_steps, given_batches):
    data = given_batches(cnn[1].architecture)
    x = data.batches[0].inputs["x"]
    exact = answers(Model.of_checkpoint(*cnn), x).mean(0)
    off = {}
    for corrected in (True, False):
        model, _ = apply_steps(cnn, ("static_quantization", {"bias_correction": corrected}), data=data)
        off[corrected] = float((answers(model, x).mean(0) - exact).norm())
    assert off[True] < off[False]


def test_a_layer_that_rounding_would_spoil_keeps_float_inputs(mlp, apply_steps, given_batches):
    data = given_batches(mlp[1].architecture)
    model, outcomes = apply_steps(mlp, ("static_quantization", {"most_change": 1e-6}), data=data)
    assert model.activations == {}
    assert all("float inputs" in outcome.done and "more than" in outcome.note for outcome in outcomes)
    assert isinstance(model.weights["0.weight"], Quantized)


def test_weights_of_7_bits_where_two_products_could_overflow(mlp, apply_steps, monkeypatch):
    monkeypatch.setattr(integer_products, "saturates", lambda: True)
    model, outcomes = apply_steps(mlp, DYNAMIC)
    codes = model.weights["0.weight"].codes.int() - 128
    assert codes.abs().max() == 63
    assert "7 bits" in outcomes[0].note


def test_pruned_weights_stay_zero(mlp, apply_steps):
    before, _ = apply_steps(mlp, ("magnitude_pruning", {"sparsity": 0.5}))
    after, _ = apply_steps(mlp, ("magnitude_pruning", {"sparsity": 0.5}), DYNAMIC)
    assert (after.weights["0.weight"].decode()[before.weights["0.weight"].decode() == 0] == 0).all()
    assert after.weights["0.weight"].plan.pruned


def test_8_bit_weights_of_an_earlier_step_are_taken_as_they_are(mlp, apply_steps):
    rounded, _ = apply_steps(mlp, ("weight_quantization", {"bits": 8, "granularity": "channel"}))
    model, _ = apply_steps(mlp, ("weight_quantization", {"bits": 8, "granularity": "channel"}), DYNAMIC)
    assert torch.equal(model.weights["0.weight"].codes, rounded.weights["0.weight"].codes)
    assert set(model.activations) == {"0", "2"}


def test_integers_of_another_kind_are_refused_with_the_reason(mlp, apply_steps):
    model, _ = apply_steps(mlp, ("weight_quantization", {"bits": 4, "group_size": 16}))
    reason = technique("dynamic_quantization").refuses(model.weights["0.weight"].plan)
    assert reason is not None
    assert "8 bits" in reason


def test_factors_are_products_of_their_own(mlp, apply_steps, tmp_path):
    model, _ = apply_steps(mlp, ("low_rank", {"ratio": 0.5}), DYNAMIC)
    assert len(model.activations) > 2
    x = torch.randn(4, 64)
    found, _ = in_onnxruntime(model, tmp_path / "out", x)
    rounded, exact = answers(model, x), answers(replace(model, activations={}), x)
    assert (found - rounded).norm() <= 0.3 * (rounded - exact).norm()


@pytest.mark.parametrize(
    ("name", "kind"), [pytest.param("GPT2LMHeadModel", "gpt2", marks=pytest.mark.slow), ("LlamaForCausalLM", "llama")]
)
def test_language_models_keep_a_shared_head_in_floats(bench, tiny, apply_steps, tmp_path, name, kind):
    tiny(name, kind, tie_word_embeddings=True).save_pretrained(tmp_path / "model")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
    model, outcomes = apply_steps((bench.out, facts), DYNAMIC)
    assert "lm_head" not in model.activations
    assert any("multiplies floats" in outcome.note for outcome in outcomes)
    written = exporters()["onnx"].write(model, tmp_path)
    assert written["kernels"]["integers"] == len(model.activations)
    assert written["kernels"]["floats"] == 1


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (2, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_integers_reach_from_minus_127_to_127(shape, dtype):
    from webapp.engine.weights import Dense

    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight[0] = 0
    found = integers(Dense(weight), PLAIN, 127)
    assert found.dtype == dtype
    assert (found.grid.scale > 0).all()
    assert (found.decode().float() - weight.float()).abs().max() <= weight.float().abs().max() / 127


def test_the_manifest_says_how_inputs_are_rounded():
    plan = Activations(by="calibration", input=Range(scale=0.5, zero=3))
    told = json.loads(json.dumps(plan.model_dump(exclude_none=True)))
    assert told == {"by": "calibration", "input": {"scale": 0.5, "zero": 3}}
    assert Activations.model_validate(told) == plan


def test_weights_alone_are_refused(inspected, apply_steps):
    checkpoint = inspected({"what.ever": torch.randn(30, 20)})
    with pytest.raises(RecipeInvalid, match="architecture"):
        apply_steps(checkpoint, DYNAMIC)
