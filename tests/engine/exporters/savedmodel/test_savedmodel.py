"""The SavedModel that is delivered loads where there is no torch, and answers as the compressed model does."""

import sys
import zipfile
from importlib.util import find_spec

import onnx
import pytest
import torch
from torch import nn

from webapp.engine.data.batches import synthetic
from webapp.engine.errors import ExportUnfit, RecipeInvalid
from webapp.engine.exporters import check_formats, exporters
from webapp.engine.exporters.savedmodel.runtime import converted
from webapp.engine.run.proof import compare_probe, write_proof

needs_tensorflow = pytest.mark.skipif(find_spec("tensorflow") is None, reason="tensorflow is not installed")
INT8 = ("weight_quantization", {"bits": 8}, {"exclude": ["0"]})
EIGHT_CODES = ("weight_quantization", {"bits": 4}, {"include": ["0"]})


@needs_tensorflow
def test_a_clean_process_answers_as_the_model_in_memory(inspected, apply_steps, tmp_path):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10)
    model, _ = apply_steps(inspected(nn.Sequential(*layers).to(torch.bfloat16)), INT8, EIGHT_CODES)
    form, spec = exporters()["savedmodel"], model.architecture
    out = tmp_path / "out"
    out.mkdir()
    told = form.write(model, out)
    (artifact,) = out.iterdir()
    assert told["size_bytes"] == artifact.stat().st_size
    inside = {entry.filename: entry.file_size for entry in zipfile.ZipFile(artifact).infolist()}
    assert {"model/1/saved_model.pb", "model/1/variables/variables.index"} <= set(inside)
    assert inside["model/1/variables/variables.data-00000-of-00001"] < 0.4 * 4 * 512 * 128, "8 bits are stored"
    write_proof(model, tmp_path, seed=0)
    loaded = form.load(out, spec)
    proof = compare_probe(loaded, spec, tmp_path)
    assert proof["agreed"]
    assert "TensorFlow 2" in proof["runtime"]
    for seed in (1, 2):
        x = synthetic(spec, seed).inputs["x"][: seed + 1]
        assert loaded.module(x).shape == (seed + 1, 10)
    assert "decoded once" in form.arithmetic(told)
    assert "tensorflow" not in sys.modules, "it belongs into a process of its own"


@needs_tensorflow
def test_operators_that_are_not_known_are_listed_and_nothing_is_written(tmp_path):
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])
    answer = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["a"]),
        onnx.helper.make_node("Hardmax", ["a"], ["b"]),
        onnx.helper.make_node("Hypot", ["b"], ["logits"], domain="example.org"),
    ]
    graph = onnx.helper.make_graph(nodes, "odd", [given], [answer])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "odd.onnx")
    with pytest.raises(ExportUnfit, match=r"operators Hardmax, example\.org:Hypot cannot"):
        converted(tmp_path / "odd.onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_tensorflow_the_form_says_how_to_get_it(mlp, monkeypatch):
    monkeypatch.setattr("webapp.engine.exporters.savedmodel.find_spec", lambda name: None)
    with pytest.raises(RecipeInvalid, match=r"TensorFlow SavedModel cannot be written\. .*pip install 'pare\[tensorf"):
        check_formats(mlp[1], ["safetensors", "savedmodel"])


@needs_tensorflow
def test_a_file_that_does_not_load_is_said_to(mlp, tmp_path):
    path = tmp_path / exporters()["savedmodel"].file
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/1/saved_model.pb", b"not one")
    with pytest.raises(Exception, match="TensorFlow ended with status 1 when it was given the SavedModel"):
        exporters()["savedmodel"].load(tmp_path, mlp[1].architecture)
