"""The graph of an ONNX file answers here as it does in onnxruntime, with its layers under their names."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.engine.importers.onnx.graphs import CASES, answered, exported, inspected, written
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import synthetic
from webapp.engine.weights.model import Model

TASKS = dict.fromkeys(CASES) | {"gpt2": "causal-lm", "llama": "causal-lm"}
OLDER = ("mlp", "cnn", "resnet", "bert", "vit", "recurrent")
SLOW = [("gpt2", True), ("recurrent", True), ("resnet", False), ("vit", False), ("bert", False)]
LAYERS = {
    "mlp": ["0", "3"],
    "cnn": ["0", "4", "8"],
    "bert": 17,
    "gpt2": 7,
    "llama": 9,
    "vit": 8,
    "recurrent": 2 * 2 * 2 + 2 + 1,
    "resnet": 1 + 4 * 2 + 3 + 1,
}


def f(*shape):
    return torch.randn(*shape).numpy()


def opened(bench, path):
    facts = bench.checkpoint(path)
    return built(bench.out, facts)


def built(folder, facts):
    assert facts.weights_only_because is None
    return facts, build(Model.of_checkpoint(folder, facts))


def compare(path, facts, module, tolerance=1e-4):
    """At the synthetic batch's size, and for one sample and five."""
    inputs = facts.architecture.inputs
    given = list(synthetic(facts.architecture, 1).inputs.values())
    for count in (len(given[0]), 1, 5):
        batch = [torch.cat([x] * 3)[:count] for x in given]
        if "vocab" in inputs and not inputs.get("length"):
            batch = [x[:, : count + 2] for x in batch]
        ours = module(*batch).detach()
        torch.testing.assert_close(ours, answered(path, batch), rtol=tolerance, atol=tolerance)


def branching(path, condition, shapes):
    """x (N, 6) through one of two layers, each in a branch of an If with its weights in it."""
    nodes = [helper.make_node(*about) for about in condition]
    branches = {}
    for name, shape in zip(("then_branch", "else_branch"), shapes, strict=True):
        weight = numpy_helper.from_array(f(*shape), "inner.weight")  # the same name in both
        steps = [helper.make_node("MatMul", ["x", "inner.weight"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
        answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        branches[name] = helper.make_graph(steps, name, [], [answer], [weight])
    nodes += [
        helper.make_node("If", ["condition"], ["chosen"], **branches),
        helper.make_node("MatMul", ["chosen", "out.weight"], ["z"]),
    ]
    held = [numpy_helper.from_array(f(8, 3), "out.weight"), numpy_helper.from_array(np.array(0.0, "f4"), "limit")]
    held.append(numpy_helper.from_array(np.array([1], "i8"), "one"))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])
    graph = helper.make_graph(nodes, "g", [given], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_branch_that_the_shapes_decide_is_taken_and_its_weights_are_layers(bench, tmp_path):
    ranks = [("Shape", ["x"], ["shape"]), ("Size", ["shape"], ["rank"]), ("Equal", ["rank", "one"], ["condition"])]
    path = branching(tmp_path / "m.onnx", ranks, [(6, 5), (6, 8)])  # the first would not even fit
    facts, module = opened(bench, path)
    assert [(layer.name, layer.shape) for layer in facts.layers] == [("inner_2", (8, 6)), ("out", (3, 8))]
    compare(path, facts, module)


def test_of_a_branch_that_the_values_decide_both_are_layers(bench, tmp_path):
    """A condition over a whole batch would mix its samples: this one is of a weight."""
    of_a_weight = [("ReduceSum", ["out.weight"], ["sum"], "", ""), ("Greater", ["sum", "limit"], ["yes"])]
    of_a_weight.append(("Squeeze", ["yes"], ["condition"]))
    path = branching(tmp_path / "m.onnx", of_a_weight, [(6, 8), (6, 8)])
    facts, module = opened(bench, path)
    assert {layer.name for layer in facts.layers} >= {"inner", "inner_2"}
    compare(path, facts, module)


def test_weights_within_a_loop_are_layers_though_it_is_not_run(bench, tmp_path):
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "inner.weight"], ["next"]),
            helper.make_node("Identity", ["going"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(f(6, 6), "inner.weight")],
    )
    nodes = [("Loop", ["times", "", "x"], ["y"], {"body": body})]
    facts = bench.checkpoint(written(tmp_path / "m.onnx", nodes, {"times": np.array(3)}))
    assert "uses Loop" in facts.weights_only_because
    assert [(layer.name, layer.kind, layer.transposed) for layer in facts.layers] == [("inner", "linear", True)]


@pytest.mark.parametrize(
    ("name", "dynamo"),
    [
        pytest.param(*case, marks=pytest.mark.slow if case in SLOW else ())
        for case in (*((name, True) for name in CASES), *((name, False) for name in OLDER))
    ],
)
def test_it_answers_as_onnxruntime_does(name, dynamo):
    facts, module = built(*inspected(name, dynamo))
    assert (facts.architecture.family, facts.architecture.task) == ("program", TASKS[name])
    names = [layer.name for layer in facts.layers]
    assert LAYERS[name] in (names, len(names))
    compare(exported(name, dynamo), facts, module)


@pytest.mark.parametrize(
    ("name", "dynamo"),
    [
        ("cnn", True),
        ("vit", False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("vit", True), ("bert", False))),
    ],
)
def test_a_file_for_one_sample_takes_any_number(name, dynamo):
    path = exported(name, dynamo, free=False)
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    compare(path, *built(*inspected(name, dynamo, free=False)))


def test_layers_have_the_names_of_the_modules_that_exporters_numbered():
    for dynamo in (True, False):
        _, facts = inspected("bert", dynamo)
        assert "model.bert.encoder.layer.1.attention.self.query" in [layer.name for layer in facts.layers]
        assert facts.architecture.inputs["tokens"] == 64  # its table of places ends there
        assert facts.architecture.inputs["names"] == ["input_ids", "attention_mask", "token_type_ids"]


CONV = [
    ("Conv", ["x", "w", "b"], ["c"], {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3], "strides": [2, 2]}),
    ("BatchNormalization", ["c", "g", "be", "mean", "var"], ["n"], {}),
    ("LeakyRelu", ["n"], ["r"], {"alpha": 0.1}),
]


def conv_tensors():
    return {"w": f(8, 3, 3, 3), "b": f(8), "g": f(8), "be": f(8), "mean": f(8), "var": abs(f(8)) + 0.5}


IMAGE = ("x", TensorProto.FLOAT, ["N", 3, 12, 12])


def test_opset_11_with_axes_as_attributes(bench, tmp_path):
    nodes = [
        *CONV,
        ("ReduceMean", ["r"], ["p"], {"axes": [2, 3], "keepdims": 1}),
        ("Squeeze", ["p"], ["q"], {"axes": [2, 3]}),
        ("Unsqueeze", ["q"], ["u"], {"axes": [1]}),
        ("Flatten", ["u"], ["s"], {}),
        ("Gemm", ["s", "fc", "fb"], ["l"], {"transB": 1}),
        ("Softmax", ["l"], ["y"], {}),
    ]
    path = written(tmp_path / "m.onnx", nodes, {**conv_tensors(), "fc": f(5, 8), "fb": f(5)}, IMAGE, opset=11)
    compare(path, *opened(bench, path), tolerance=1e-5)


def test_channels_last_and_same_padding_as_keras_has_them(bench, tmp_path):
    names = [f"{layer}/ReadVariableOp:0" for layer in ("conv/Conv2D", "conv/BiasAdd", "dense/MatMul", "dense/BiasAdd")]
    nodes = [
        ("Transpose", ["x"], ["t"], {"perm": [0, 3, 1, 2]}),
        ("Conv", ["t", *names[:2]], ["c"], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ("Clip", ["c", "zero", "six"], ["k"], {}),
        ("AveragePool", ["k"], ["p"], {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ("Transpose", ["p"], ["l"], {"perm": [0, 2, 3, 1]}),
        ("Reshape", ["l", "shape"], ["flat"], {}),
        ("MatMul", ["flat", names[2]], ["m"], {}),
        ("Add", [names[3], "m"], ["y"], {}),
    ]
    tensors = dict(zip(names, (f(4, 3, 3, 3), f(4), f(36, 10), f(10)), strict=True))
    settings = {"zero": 0.0, "six": 6.0}
    tensors |= {key: torch.tensor(value).numpy() for key, value in settings.items()} | {"shape": [-1, 36]}
    path = written(tmp_path / "m.onnx", nodes, tensors, ("x", TensorProto.FLOAT, ["N", 12, 12, 3]))
    facts, module = opened(bench, path)
    assert [layer.name for layer in facts.layers] == ["conv.Conv2D", "dense.MatMul"]
    assert module.get_submodule("dense.MatMul").bias is not None
    compare(path, facts, module)


def test_a_reshape_to_one_sample_is_freed(bench, tmp_path):
    nodes = [*CONV, ("Reshape", ["r", "shape"], ["s"], {}), ("Gemm", ["s", "fc"], ["y"], {})]
    tensors = {**conv_tensors(), "shape": [1, -1], "fc": f(288, 5) / 10}
    path = written(tmp_path / "m.onnx", nodes, tensors, ("x", TensorProto.FLOAT, [1, 3, 12, 12]))
    compare(path, *opened(bench, path))


def test_half_precision_is_run_in_single(bench, tmp_path):
    nodes = [
        ("Cast", ["x"], ["h"], {"to": TensorProto.FLOAT16}),
        ("MatMul", ["h", "w"], ["m"], {}),
        ("Add", ["m", "b"], ["a"], {}),
        ("Cast", ["a"], ["y"], {"to": TensorProto.FLOAT}),
    ]
    path = written(tmp_path / "m.onnx", nodes, {"w": f(6, 8).astype("float16"), "b": f(8).astype("float16")})
    facts, module = opened(bench, path)
    assert facts.tensors[0].dtype == "float16"
    compare(path, facts, module, tolerance=1e-2)


def test_weights_in_the_nodes_are_weights(bench, tmp_path):
    nodes = [
        ("Constant", [], ["w"], {"value": onnx.numpy_helper.from_array(f(6, 8))}),
        ("MatMul", ["x", "w"], ["y"], {}),
    ]
    path = written(tmp_path / "m.onnx", nodes, {})
    compare(path, *opened(bench, path))


def test_samples_that_are_mixed_are_not_run(bench, tmp_path):
    nodes = [
        ("ReduceMean", ["x"], ["m"], {"axes": [0]}),
        ("Sub", ["x", "m"], ["s"], {}),
        ("MatMul", ["s", "w"], ["y"], {}),
    ]
    facts = bench.checkpoint(written(tmp_path / "m.onnx", nodes, {"w": f(6, 8)}))
    assert "mixes the samples of a batch" in facts.weights_only_because


def test_places_and_an_empty_cache_follow_from_the_tokens(bench, tmp_path):
    nodes = [
        ("Gather", ["table", "input_ids"], ["t"], {}),
        ("Gather", ["places", "position_ids"], ["p"], {}),
        ("Add", ["t", "p"], ["s"], {}),
        ("Unsqueeze", ["s", "one"], ["heads"], {}),
        ("Concat", ["past_key_values.0.key", "heads"], ["k"], {"axis": 2}),
        ("ReduceMean", ["k"], ["y"], {"axes": [1, 2], "keepdims": 0}),
    ]
    tensors = {"table": f(30, 8), "places": f(16, 8), "one": [1]}
    path = written(tmp_path / "m.onnx", nodes, tensors, ("input_ids", TensorProto.INT64, ["B", "T"]))
    model = onnx.load(path)
    value = onnx.helper.make_tensor_value_info
    model.graph.input.append(value("position_ids", TensorProto.INT64, ["B", "T"]))
    model.graph.input.append(value("past_key_values.0.key", TensorProto.FLOAT, ["B", 1, "P", 8]))
    path.write_bytes(model.SerializeToString())
    facts, module = opened(bench, path)
    ids = torch.randint(0, 30, (3, 5))
    expected = (torch.from_numpy(tensors["table"])[ids] + torch.from_numpy(tensors["places"])[:5]).mean(1)
    assert facts.architecture.inputs["names"] == ["input_ids"]
    torch.testing.assert_close(module(ids).detach(), expected)
