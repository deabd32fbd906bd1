"""ONNX files: initializers under their names, orientations told by the graph, and what may not be in them.

What its graph answers is in tests/engine/importers/onnx.
"""

import warnings

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tests.engine.run.test_stages import Bench as Run


def model(weights, nodes, path, **save):
    """A file of these initializers (name -> array or TensorProto) and nodes (op, inputs, attributes)."""
    made = [helper.make_node(op, inputs, [f"y{number}"], **about) for number, (op, inputs, about) in enumerate(nodes)]
    held = [
        w if isinstance(w, TensorProto) else numpy_helper.from_array(w.numpy(), name) for name, w in weights.items()
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 6])
    y = helper.make_tensor_value_info(f"y{len(made) - 1}", TensorProto.FLOAT, None)
    onnx.save(helper.make_model(helper.make_graph(made, "g", [x], [y], held)), path, **save)
    return path


@pytest.fixture
def two_layers(tmp_path):
    """x (B, 6) through a MatMul (6, 40) and a Gemm with (5, 40)."""
    torch.manual_seed(0)
    weights = {"first": torch.randn(6, 40), "second.weight": torch.randn(5, 40), "second.bias": torch.randn(5)}
    nodes = [
        ("MatMul", ["x", "first"], {}),
        ("Gemm", ["y0", "second.weight", "second.bias"], {"transB": 1}),
        ("NonZero", ["y1"], {}),
    ]
    return weights, lambda run=False, **save: model(weights, nodes[: 3 - run], tmp_path / "two.onnx", **save)


def test_a_graph_that_runs_is_a_program_with_its_layers(bench, two_layers):
    weights, write = two_layers
    facts = bench.checkpoint(write(run=True))
    assert (facts.format, facts.weights_only_because, facts.architecture.family) == ("onnx", None, "program")
    assert [(layer.name, layer.transposed) for layer in facts.layers] == [("first", False), ("second", False)]
    assert torch.equal(bench.tensors()["first.weight"], weights["first"].t())
    assert any("transposed" in note for note in facts.notes)


def test_initializers_keep_names_values_and_orientations(bench, two_layers):
    """Of a graph that is not run."""
    weights, write = two_layers
    facts = bench.checkpoint(write())
    assert facts.format == "onnx"
    assert all(torch.equal(tensor, weights[name]) for name, tensor in bench.tensors().items())
    assert set(bench.tensors()) == set(weights)
    assert [(layer.name, layer.transposed) for layer in facts.layers] == [("first", True), ("second", False)]
    assert "it uses NonZero, which Pare does not run" in facts.weights_only_because


@pytest.mark.parametrize(
    "steps",
    [
        [("magnitude_pruning", {"sparsity": 0.5}), ("weight_quantization", {"bits": 8})],
        [("low_rank", {"ratio": 0.5})],
    ],
)
def test_techniques_that_need_weights_alone_work_on_it(bench, two_layers, tmp_path, steps):
    facts = bench.checkpoint(two_layers[1]())
    folder = tmp_path / "run"
    folder.mkdir()
    concluded = Run(folder, (bench.out, facts)).run(*steps)
    assert concluded["receipt"]["proof"][0]["agreed"]
    assert concluded["result"]["params_stored"] <= concluded["baseline"]["params_stored"]


def test_a_module_that_torch_exported(bench, tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 5)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(1, 3, 4, 4),), tmp_path / "m.onnx", dynamo=True, external_data=False)
    facts = bench.checkpoint(tmp_path / "m.onnx")
    assert [(layer.kind, layer.shape, layer.transposed) for layer in facts.layers] == [
        ("conv", (8, 3, 3, 3), False),
        ("linear", (5, 32), False),
    ]


def external(write, tmp_path, change=None):
    """The two-layer file with its data beside it; `change` edits the model."""
    path = write(save_as_external_data=True, location="weights.data", size_threshold=0)
    loaded = onnx.load(path, load_external_data=False)
    if change:
        change(loaded.graph.initializer[0])
        path.write_bytes(loaded.SerializeToString())
    return path, (tmp_path / "weights.data").read_bytes()


def test_external_data_beside_a_file_that_is_named_by_its_path(bench, two_layers, tmp_path):
    weights, write = two_layers
    path, content = external(write, tmp_path)
    data, alone = tmp_path / "weights.data", tmp_path / "alone"
    assert "upload a zip that holds both" in bench.refusal(path), "an upload has nothing beside it"
    alone.mkdir()
    (alone / path.name).write_bytes(path.read_bytes())
    (alone / data.name).write_bytes(content)
    for named in (path, alone):
        facts = bench.checkpoint(named, in_place=True)
        assert {source.name for source in facts.sources} == {path.name, data.name}
        assert all(torch.equal(tensor, weights[name]) for name, tensor in bench.tensors().items())
    data.rename(tmp_path.parent / f"{tmp_path.name}.data")
    data.symlink_to(tmp_path.parent / f"{tmp_path.name}.data")
    assert "leads out of the folder" in bench.refusal(path, in_place=True)
    data.unlink()
    assert "in a file beside it" in bench.refusal(path, in_place=True)


def test_external_data_in_one_zip(bench, two_layers, tmp_path):
    weights, write = two_layers
    path, data = external(write, tmp_path)
    assert "upload a zip that holds both" in bench.refusal(path)
    bench.checkpoint(bench.zip("both.zip", {"m/two.onnx": path.read_bytes(), "m/weights.data": data}))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in bench.tensors().items())


def entry(key, value):
    def change(tensor):
        next(about for about in tensor.external_data if about.key == key).value = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (entry("location", "../weights.data"), "leads out of its folder"),
        (entry("location", "/etc/passwd"), "leads out of its folder"),
        (entry("location", "..\\weights.data"), "leads out of its folder"),
        (entry("location", "other.data"), "upload a zip that holds both"),
        (entry("offset", "99999"), "and 1780 in all"),
        (entry("offset", "-8"), "in all"),
        (entry("length", "8"), "has 8 for it"),
    ],
)
def test_external_data_that_lies(bench, two_layers, tmp_path, change, said):
    path, data = external(two_layers[1], tmp_path, change)
    zipped = bench.zip("both.zip", {"m/two.onnx": path.read_bytes(), "m/weights.data": data, "outside": b"x"})
    assert said in bench.refusal(zipped)


@pytest.mark.parametrize("dims", [[6, 400], [2**40, 2**40], [-1, 40], [2**62, 4]])
def test_dims_that_lie(bench, tmp_path, dims):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(960))
    assert "claims the shape" in bench.refusal(model({"w": tensor}, [("MatMul", ["x", "w"], {})], tmp_path / "m.onnx"))


def test_nodes_of_another_domain_are_never_run(bench, tmp_path):
    nodes = [("MatMul", ["x", "w"], {}), ("RunCommand", ["y0"], {"domain": "evil.example"})]
    facts = bench.checkpoint(model({"w": torch.randn(6, 4)}, nodes, tmp_path / "m.onnx"))
    assert [layer.name for layer in facts.layers] == ["w"]
    assert "evil.example.RunCommand" in facts.weights_only_because


def test_one_that_is_quantized_already(bench, tmp_path):
    codes = {"codes": torch.zeros(6, 4, dtype=torch.int8), "scale": torch.ones(())}
    path = model(codes, [("DequantizeLinear", ["codes", "scale"], {})], tmp_path / "q.onnx")
    assert "quantized already (DequantizeLinear)" in bench.refusal(path)
