"""Activations that an ONNX file rounds are rounded here likewise, or it is refused, or floats by its owner's wish."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

from tests import zoo
from tests.engine.importers.onnx.graphs import written
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import synthetic
from webapp.engine.errors import PareError
from webapp.engine.exporters import exporters
from webapp.engine.weights.model import Model

MADE = {  # family, technique, settings
    "static, a network": ("mlp", "static_quantization", {}),
    "static, convolutions": ("cnn", "static_quantization", {}),
    "by token": ("mlp", "dynamic_quantization", {}),
    "by tensor": ("mlp", "dynamic_quantization", {"ranges": "tensor"}),
    "by token, beside convolutions": ("cnn", "dynamic_quantization", {}),
}


@pytest.fixture
def made(tmp_path):
    def go(case):
        family, technique, settings = MADE[case]
        given = zoo.checkpoint(family)
        model, _ = zoo.apply_steps(given, (technique, settings), data=zoo.seeded_batches(given[1].architecture))
        assert model.activations
        exporters()["onnx"].write(model, tmp_path)
        return model, tmp_path / "model.onnx"

    return go


def distance(model, path):
    """How far its answers are from onnxruntime's, as a share of their size."""
    x = synthetic(model.architecture, 3).inputs["x"]
    session = onnxruntime.InferenceSession(path)
    expected = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    with torch.inference_mode():
        return float(np.linalg.norm(build(model)(x).numpy() - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("case", MADE)
def test_they_are_what_they_were(bench, made, tmp_path, case):
    was, path = made(case)
    facts = bench.checkpoint(path)
    now = Model.of_checkpoint(bench.out, facts)
    assert now.activations.keys() == was.activations.keys()
    for name, plan in was.activations.items():
        found = now.activations[name]
        assert (found.by, found.result_at) == (plan.by, plan.result_at)
        for mine, its in ((found.input, plan.input), (found.result, plan.result)):
            assert mine == its or (mine.zero == its.zero and mine.scale == pytest.approx(its.scale, rel=1e-6))
    for name in was.weights:
        mine, its = now.weight(name).decode(), was.weight(name).decode().float()
        unit = 0 if was.plan(name).kind == "quantized" else 1e-4  # a bias is in integers of 32 bits
        assert torch.allclose(mine, its, rtol=0, atol=unit), name
        assert now.plan(name).bytes == was.plan(name).bytes, name
    assert distance(now, path) < 1e-5
    (tmp_path / "again").mkdir()
    exporters()["onnx"].write(now, tmp_path / "again")
    assert distance(now, tmp_path / "again" / "model.onnx") < 1e-5


@pytest.mark.parametrize("case", MADE)
def test_by_its_owner_s_wish_nothing_is_rounded(bench, made, case):
    was, path = made(case)
    facts = bench.checkpoint(path, dequantize=True)
    now = Model.of_checkpoint(bench.out, facts)
    assert not now.activations
    assert {plan.kind for plan in now.weights.plans.values()} == {"dense"}
    assert any("dequantized as asked" in note for note in facts.notes)
    for name in was.activations:
        assert torch.equal(now.weight(f"{name}.weight").decode(), was.weight(f"{name}.weight").decode())
    assert distance(now, path) < 0.03


@pytest.fixture
def network(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "first": rng.normal(size=(24, 32)).astype(np.float32),
        "shift": rng.normal(size=32).astype(np.float32),
        "second": rng.normal(size=(32, 10)).astype(np.float32),
    }
    nodes = [
        ("MatMul", ["x", "first"], ["h"], {}),
        ("Add", ["h", "shift"], ["a"], {}),
        ("Relu", ["a"], ["r"], {}),
        ("MatMul", ["r", "second"], ["y"], {}),
    ]
    return written(tmp_path / "plain.onnx", nodes, tensors, ("x", TensorProto.FLOAT, ["N", 24]))


@pytest.mark.parametrize("per_channel", [True, False])
def test_dynamic_quantization_of_onnxruntime(bench, network, tmp_path, per_channel):
    quantize_dynamic(network, tmp_path / "q.onnx", per_channel=per_channel)
    facts = bench.checkpoint(tmp_path / "q.onnx")
    now = Model.of_checkpoint(bench.out, facts)
    assert [plan.by for plan in now.activations.values()] == ["tensor", "tensor"]
    assert {layer.weight for layer in facts.layers} == {"first.weight", "second.weight"}
    assert {now.plan(layer.weight).label for layer in facts.layers} == {"int8 per channel"}
    assert distance(now, tmp_path / "q.onnx") < 1e-5


class Samples(CalibrationDataReader):
    def __init__(self):
        self.left = [np.random.default_rng(seed).normal(size=(8, 24)).astype(np.float32) for seed in range(3)]

    def get_next(self):
        return {"x": self.left.pop()} if self.left else None


@pytest.mark.parametrize(
    ("form", "says"),
    [(QuantFormat.QDQ, "rounds activations (QuantizeLinear) where Pare does not"), (QuantFormat.QOperator, "(QLinear")],
)
def test_what_is_rounded_elsewhere_is_refused(bench, network, tmp_path, form, says):
    quantize_static(network, tmp_path / "q.onnx", Samples(), quant_format=form)
    assert says in bench.refusal(tmp_path / "q.onnx")
    if form == QuantFormat.QDQ:
        facts = bench.checkpoint(tmp_path / "q.onnx", dequantize=True)
        assert distance(Model.of_checkpoint(bench.out, facts), tmp_path / "q.onnx") < 0.03
    else:
        with pytest.raises(PareError, match="in a way that is not taken apart"):
            bench.checkpoint(tmp_path / "q.onnx", dequantize=True)


def test_a_formula_that_only_looks_like_pare_s_is_refused(bench, made, tmp_path):
    _, path = made("by token")
    model = onnx.load(path)
    (sums,) = [tensor for tensor in model.graph.initializer if tensor.name == "0.weight.sums"]
    sums.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(sums) + 1, sums.name))
    onnx.save(model, tmp_path / "m.onnx")
    assert "rounds activations (" in bench.refusal(tmp_path / "m.onnx")
