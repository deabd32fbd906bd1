"""Integers in an ONNX file stay integers: of Pare's own files those of the run, of others those that are decoded."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

import webapp
from tests import zoo
from tests.engine.importers.onnx.graphs import exported, written
from tests.engine.run.test_stages import Bench as Run
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import synthetic
from webapp.engine.exporters import exporters
from webapp.engine.run.predict import plans_of
from webapp.engine.weights.model import Model

OWN = [  # family, form, dtype of the checkpoint
    ("mlp", "8 bits", "float16"),
    ("mlp", "4 bits, zero points", "bfloat16"),
    ("mlp", "2 bits", "float32"),
    ("mlp", "codebook", "float32"),
    ("cnn", "8 bits", "bfloat16"),
    ("cnn", "4 bits", "float32"),
    ("cnn", "3 bits", "bfloat16"),
    ("cnn", "4 bits, zero points", "float32"),
    ("cnn", "pruned, 4 bits", "float32"),
    ("cnn", "NF4", "float16"),
    ("bert", "8 bits", "bfloat16"),
    pytest.param("llama", "4 bits", "bfloat16", marks=pytest.mark.slow),
    pytest.param("vit", "4 bits, zero points", "float32", marks=pytest.mark.slow),
]


def back(bench, path):
    facts = bench.checkpoint(path)
    assert facts.architecture is not None, facts.weights_only_because
    return Model.of_checkpoint(bench.out, facts), facts


def agrees(model, path, as_it_says=False):
    """The model answers as onnxruntime does with the file; `as_it_says`: without roundings of onnxruntime's own."""
    inputs = synthetic(model.architecture, 3).inputs
    options = onnxruntime.SessionOptions()
    if as_it_says:  # else it makes products of integers of DequantizeLinear and MatMul
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options)
    names = [given.name for given in session.get_inputs()]
    given = [inputs[name] for name in model.architecture.inputs["names"]]
    expected = session.run(None, {name: x.numpy() for name, x in zip(names, given, strict=True)})[0]
    with torch.inference_mode():
        found = build(model)(*given)
    assert np.allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("family", "form", "dtype"), OWN)
def test_what_pare_wrote_is_what_it_was(bench, family, form, dtype):
    folder, _ = zoo.written("onnx", family, form, dtype)
    was = zoo.model(family, form, dtype)
    now, facts = back(bench, folder / "model.onnx")
    stored = {name for name, plan in was.weights.plans.items() if plan.kind == "quantized"}
    assert stored
    assert {name for name, plan in now.weights.plans.items() if plan.kind == "quantized"} == stored
    assert now.weights.plans == plans_of(facts)
    for name in was.weights:
        assert torch.equal(now.weight(name).decode(), was.weight(name).decode().to(now.weight(name).value_dtype)), name
        assert now.plan(name) == was.plan(name) or name not in stored, name
    for name in stored:
        mine, its = now.weight(name), was.weight(name)
        assert torch.equal(mine.codes, its.codes), name
        assert torch.equal(mine.grid.scale, its.grid.scale), name
        assert (mine.plan.bits, mine.plan.group, mine.plan.symmetric) == (
            its.plan.bits,
            its.plan.group,
            its.plan.symmetric,
        )
    if family in ("mlp", "cnn", "vit"):
        agrees(now, folder / "model.onnx")


def test_factors_are_layers_of_their_own(bench):
    folder, _ = zoo.written("onnx", "cnn", "low rank, 8 bits")
    was, (now, _) = zoo.model("cnn", "low rank, 8 bits"), back(bench, folder / "model.onnx")
    for name, weight in was.weights.items():
        for factor, leaf in weight.factors.items():
            found = now.weight(f"{name.removesuffix('.weight')}.{factor}.weight")
            assert torch.equal(found.codes, leaf.codes), (name, factor)
            assert torch.equal(found.grid.scale, leaf.grid.scale), (name, factor)
    agrees(now, folder / "model.onnx")


def test_it_is_compressed_further_and_written_again(bench, tmp_path):
    folder, _ = zoo.written("onnx", "cnn", "8 bits", "float32")
    facts = bench.checkpoint(folder / "model.onnx")
    further = ("dynamic_quantization", {}), ("cast", {"dtype": "float16"})
    given = zoo.seeded_batches(facts.architecture)
    model, _ = zoo.apply_steps((bench.out, facts), *further, data=given)
    expected, _ = zoo.apply_steps(zoo.checkpoint("cnn"), *zoo.FORMS["8 bits"], *further, data=given)
    assert model.weights.plans == expected.weights.plans
    for name in expected.weights:
        assert torch.equal(model.weight(name).decode(), expected.weight(name).decode()), name
    exporters()["onnx"].write(model, tmp_path)
    again, _ = back(bench, tmp_path / "model.onnx")
    assert again.activations.keys() == model.activations.keys() == {"6"}
    assert again.weights.plans == model.weights.plans


def test_figures_are_those_of_the_run_that_made_it(bench, tmp_path):
    """The digits, pruned and in 4 bits: of its ONNX file the baseline is what the run's result was."""
    samples = Path(webapp.__file__).parent / "samples"
    given = bench.checkpoint(samples / "digits_cnn.safetensors")
    checkpoint = bench.out, given
    data = bench.dataset(samples / "digits.npz")
    dataset = bench.out, data

    def run(name, checkpoint, *steps):
        (tmp_path / name).mkdir()
        made = Run(tmp_path / name, checkpoint, dataset, ("safetensors", "onnx"))
        concluded = made.run(*steps)
        assert [proof["agreed"] for proof in concluded["receipt"]["proof"]] == [True, True]
        return concluded, made.folders["export-onnx"] / "model.onnx"

    steps = ("magnitude_pruning", {"sparsity": 0.5}), ("weight_quantization", {"bits": 4})
    first, path = run("first", checkpoint, *steps)
    facts = bench.checkpoint(path)
    second, _ = run("second", (bench.out, facts), ("cast", {"dtype": "float16"}))
    was, now = first["result"], second["baseline"]
    for figure in ("params_total", "params_nonzero", "params_stored", "sparsity"):
        assert now[figure] == was[figure], figure
    assert now["metrics"]["accuracy"] == was["metrics"]["accuracy"]
    assert now["size_bytes"] == pytest.approx(was["size_bytes"], abs=1000)  # but for what the header tells of the graph
    assert now["bits_per_weight"] == pytest.approx(was["bits_per_weight"], abs=0.05)


def told(path, change):
    """The file with what it says of its weights changed."""
    model = onnx.load(path)
    (entry,) = [entry for entry in model.metadata_props if entry.key == "pare"]
    content = json.loads(entry.value)
    entry.value = json.dumps(change(content))
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda content: {**content, "weights": {}},
        lambda content: {**content, "weights": dict.fromkeys(content["weights"], 3)},
        lambda content: {**content, "weights": {n: about | {"bits": 1} for n, about in content["weights"].items()}},
        lambda content: {**content, "weights": {n: about | {"bits": "4"} for n, about in content["weights"].items()}},
        lambda content: {**content, "weights": {n: about | {"group": 7} for n, about in content["weights"].items()}},
        lambda content: {**content, "weights": {n: about | {"shape": [2]} for n, about in content["weights"].items()}},
    ],
)
def test_what_the_file_says_is_taken_only_where_its_codes_fit(bench, tmp_path, change):
    folder, _ = zoo.written("onnx", "cnn", "3 bits", "float32")
    onnx.save(told(folder / "model.onnx", change), tmp_path / "m.onnx")
    now, _ = back(bench, tmp_path / "m.onnx")
    was = zoo.model("cnn", "3 bits")
    for name in was.weights:
        assert torch.equal(now.weight(name).decode(), was.weight(name).decode()), name
        assert now.plan(name).bytes == was.plan(name).bytes, name


def quantized_file(path, codes, scale, zero=None, product="MatMul", kind=None, **about):
    """A graph of one product with a weight under a DequantizeLinear; the codes in a type of four bits with `kind`."""
    held = [numpy_helper.from_array(scale, "w_scale")]
    for name, value in (("w_quantized", codes), ("w_zero_point", zero)):
        if value is not None:
            four = kind and helper.make_tensor(name, kind, value.shape, value.flatten().tolist())
            held.append(four or numpy_helper.from_array(value, name))
    inputs = ["w_quantized", "w_scale", *(["w_zero_point"] if zero is not None else [])]
    nodes = [
        helper.make_node("DequantizeLinear", inputs, ["w"], **about),
        helper.make_node(product, ["x", "w"], ["y"], **({"transB": 1} if product == "Gemm" else {})),
    ]
    columns = codes.shape[1] if product in ("Gemm", "Conv") else codes.shape[0]
    shape = ["N", columns, *([9, 9] if product == "Conv" else [])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        held,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def drawn(shape, low, high, dtype):
    return np.random.default_rng(sum(shape)).integers(low, high, shape).astype(dtype)


def scales(*shape):
    return np.random.default_rng(sum(shape)).uniform(0.01, 0.1, shape).astype(np.float32)


FOUR = {"kind": TensorProto.INT4}, {"kind": TensorProto.UINT4}
OTHERS = {  # codes, scale, zero points, the rest; the label of what it becomes
    "one scale, int8": ((drawn((24, 10), -127, 128, np.int8), scales()), {}, "int8 per channel"),
    "one scale, uint8": (
        (drawn((24, 10), 0, 256, np.uint8), scales(1), np.array([7], np.uint8)),
        {},
        "int8 per channel",
    ),
    "per channel, int8": (
        (drawn((24, 10), -127, 128, np.int8), scales(10), np.zeros(10, np.int8)),
        {"axis": 1},
        "int8 per channel",
    ),
    "per channel, int8, zero points": (
        (drawn((24, 10), -128, 128, np.int8), scales(10), drawn((10,), -100, 100, np.int8)),
        {"axis": 1},
        "int8 per channel",
    ),
    "per channel, uint8, Gemm": (
        (drawn((10, 24), 0, 256, np.uint8), scales(10), drawn((10,), 50, 200, np.uint8)),
        {"axis": 0, "product": "Gemm"},
        "int8 per channel",
    ),
    "per channel, half precision": (
        (drawn((24, 10), -127, 128, np.int8), scales(10)),
        {"axis": -1},
        "int8 per channel",
    ),
    "per channel, int4": (
        (drawn((24, 10), -8, 8, np.int8), scales(10)),
        {"axis": 1, **FOUR[0]},
        "int4 per channel",
    ),
    "blocks, int4": (
        (drawn((64, 10), -8, 8, np.int8), scales(2, 10)),
        {"axis": 0, "block_size": 32, **FOUR[0]},
        "int4 groups of 32",
    ),
    "blocks, uint4, zero points": (
        (drawn((10, 63), 0, 16, np.uint8), scales(10, 4), drawn((10, 4), 0, 16, np.uint8)),
        {"axis": 1, "block_size": 16, "product": "Gemm", **FOUR[1]},
        "int4 groups of 16",
    ),
    "convolution": (
        (drawn((8, 3, 3, 3), -127, 128, np.int8), scales(8), np.zeros(8, np.int8)),
        {"axis": 0, "product": "Conv"},
        "int8 per channel",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_weight_under_dequantize_linear_keeps_its_codes(bench, tmp_path, case):
    given, about, label = OTHERS[case]
    path = quantized_file(tmp_path / "m.onnx", *given, **about)
    model, facts = back(bench, path)
    (layer,) = facts.layers
    plan = model.plan(layer.weight)
    assert (plan.label, plan.layout.transposed) == (label, False)
    assert plan.symmetric == (len(given) == 2 or not given[2].any())
    agrees(model, path, as_it_says=True)
    exporters()["onnx"].write(model, tmp_path)
    agrees(model, tmp_path / "model.onnx")


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("form", [QuantFormat.QOperator, QuantFormat.QDQ])
def test_the_4_bits_of_onnxruntime(bench, tmp_path, form, symmetric):
    tensors = {"w": np.random.default_rng(0).normal(size=(96, 20)).astype(np.float32), "b": np.ones(20, np.float32)}
    nodes = [("MatMul", ["x", "w"], ["h"], {}), ("Add", ["h", "b"], ["y"], {})]
    plain = written(tmp_path / "m.onnx", nodes, tensors, ("x", TensorProto.FLOAT, ["N", 96]), opset=21)
    made = MatMulNBitsQuantizer(onnx.load(plain), block_size=32, is_symmetric=symmetric, quant_format=form)
    made.process()
    made.model.save_model_to_file(str(tmp_path / "q.onnx"))
    model, facts = back(bench, tmp_path / "q.onnx")
    (layer,) = facts.layers
    plan = model.plan(layer.weight)
    assert (layer.weight, plan.label, plan.symmetric) == ("w.weight", "int4 groups of 32", symmetric)
    agrees(model, tmp_path / "q.onnx", as_it_says=True)


def test_a_table_that_is_the_head_too_is_one_weight(bench):
    folder, _ = zoo.written("onnx", "gpt2", "8 bits", "bfloat16")
    was, (now, facts) = zoo.model("gpt2", "8 bits", "bfloat16"), back(bench, folder / "model.onnx")
    assert sum(plan.kind == "quantized" for plan in now.weights.plans.values()) == sum(
        plan.kind == "quantized" for plan in was.weights.plans.values()
    )
    assert now.bytes == was.bytes
    assert facts.tied


def test_scales_along_the_inputs_are_refused(bench, tmp_path):
    path = quantized_file(tmp_path / "m.onnx", drawn((24, 10), -127, 128, np.int8), scales(24), axis=0)
    assert "w.weight in m.onnx has a scale for each input" in bench.refusal(path)
    facts = bench.checkpoint(path, dequantize=True)
    assert not any(tensor.stored for tensor in facts.tensors)
    agrees(Model.of_checkpoint(bench.out, facts), path, as_it_says=True)


REFUSED = {
    "more scales than rows": (drawn((24, 10), -127, 128, np.int8), scales(11), None, {"axis": 1}),
    "16 bits": (drawn((24, 10), -127, 128, np.int16), scales(10), None, {"axis": 1}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_decoding_is_refused(bench, tmp_path, case):
    *given, about = REFUSED[case]
    message = bench.refusal(quantized_file(tmp_path / "m.onnx", *given, **about))
    assert "m.onnx is quantized already (DequantizeLinear), in a way that is not taken apart" in message


def test_scales_that_are_no_numbers_are_refused(bench, tmp_path):
    scale = scales(10)
    scale[3] = np.nan
    path = quantized_file(tmp_path / "m.onnx", drawn((24, 10), -127, 128, np.int8), scale, axis=1)
    assert "not finite" in bench.refusal(path) or "does not run" in bench.refusal(path)


@pytest.mark.parametrize("cut", [1, 5])
def test_four_bits_that_are_cut_short(bench, tmp_path, cut):
    path = quantized_file(tmp_path / "m.onnx", drawn((24, 10), -8, 8, np.int8), scales(10), axis=1, **FOUR[0])
    model = onnx.load(path)
    (codes,) = [tensor for tensor in model.graph.initializer if tensor.name == "w_quantized"]
    content = codes.raw_data or bytes(n & 255 for n in codes.int32_data)
    del codes.int32_data[:]
    codes.raw_data = content[:-cut]
    onnx.save(model, path)
    assert f"takes 120 bytes, and holds {120 - cut}" in bench.refusal(path)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [([], ["w"]), (["w_quantized"], ["w"]), (["w_scale", "w_quantized"], ["w"]), (["w_quantized", "w_scale"], [])],
)
def test_steps_without_what_they_need(bench, tmp_path, inputs, outputs):
    path = quantized_file(tmp_path / "m.onnx", drawn((24, 10), -127, 128, np.int8), scales(10), axis=1)
    model = onnx.load(path)
    model.graph.node[0].CopyFrom(helper.make_node("DequantizeLinear", inputs, outputs, axis=1))
    onnx.save(model, path)
    assert bench.refusal(path).startswith("m.onnx ")


def test_a_weight_that_is_multiplied_with_itself(bench, tmp_path):
    path = quantized_file(
        tmp_path / "m.onnx", drawn((3, 3, 3, 3), -127, 128, np.int8), scales(3), product="Conv", axis=0
    )
    model = onnx.load(path)
    model.graph.node[1].input[0] = "w"
    onnx.save(model, path)
    assert "it does not answer with one row for each sample" in bench.refusal(path)


def test_recurrent_matrices_in_integers_are_refused(bench, tmp_path):
    """Their rows are in another order here; they are not taken apart for that, and become no floats unasked."""
    model = onnx.load(exported("recurrent", dynamo=False))
    names = [node.input[1] for node in model.graph.node if node.op_type in ("LSTM", "GRU")]
    (wanted,) = [tensor for tensor in model.graph.initializer if tensor.name == names[0]]
    value = numpy_helper.to_array(wanted)
    scale = np.float32(np.abs(value).max() / 127)
    wanted.CopyFrom(numpy_helper.from_array(np.round(value / scale).astype(np.int8), "codes"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(scale), "scale"))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["codes", "scale"], [names[0]]))
    onnx.save(model, tmp_path / "m.onnx")
    assert "is quantized already" in bench.refusal(tmp_path / "m.onnx")
    assert bench.checkpoint(tmp_path / "m.onnx", dequantize=True).architecture is not None
