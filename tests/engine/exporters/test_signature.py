"""What a delivered ONNX file takes and answers with, read from the file and the facts."""

import shutil
import subprocess
import sys

import pytest

from webapp.engine.data.tasks import for_task
from webapp.engine.exporters import exporters
from webapp.engine.exporters.onnx.signature import FILE, TOKENIZER, Signature, signature_of, write_signature
from webapp.engine.weights.model import Model


def written(checkpoint, folder):
    """The ONNX file of an inspected checkpoint, and its architecture."""
    inspected, facts = checkpoint
    folder.mkdir()
    exporters()["onnx"].write(Model.of_checkpoint(inspected, facts), folder)
    return folder / "model.onnx", facts.architecture


def test_a_network_of_arrays(mlp, tmp_path):
    path, spec = written(mlp, tmp_path / "out")
    assert signature_of(path, spec).task is None  # ten numbers may be an embedding
    found = signature_of(path, for_task(spec, "classification"), [str(digit) for digit in range(10)])
    (given,), (answer,) = found.inputs, found.outputs
    assert (given.name, given.dtype, given.shape) == ("x", "float32", ("batch", 64))
    assert (answer.dtype, answer.shape) == ("float32", ("batch", 10))
    assert (found.task, found.classes, found.text) == ("classification", tuple("0123456789"), None)


def test_names_of_classes_that_are_not_as_many_as_the_answers_are_left_out(mlp, tmp_path):
    path, spec = written(mlp, tmp_path / "out")
    assert signature_of(path, spec, ["cat", "dog"]).classes is None


def test_a_model_of_tokens_takes_text_where_its_tokenizer_lies_beside_it(zoo, tmp_path):
    llama = zoo.checkpoint("llama")
    path, spec = written(llama, tmp_path / "out")
    assert signature_of(path, spec).text is None
    shutil.copy(llama[0] / TOKENIZER, path.parent)
    found = signature_of(path, spec)
    assert [(given.name, given.dtype) for given in found.inputs] == [
        ("input_ids", "int64"),
        ("attention_mask", "int64"),
    ]
    assert found.inputs[0].shape == ("batch", "sequence")
    assert found.outputs[0].shape == ("batch", "sequence", 40)
    assert found.text.max_tokens == 64


@pytest.mark.parametrize("name", ["onnxruntime", "tokenizers"])
def test_it_is_read_back_without_torch(mlp, tmp_path, name):
    path, spec = written(mlp, tmp_path / "out")
    write_signature(signature_of(path, spec), path.parent)
    assert Signature.model_validate_json((path.parent / FILE).read_bytes()) == signature_of(path, spec)
    probe = f"import sys, webapp.engine.exporters.onnx.signature, {name}; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
