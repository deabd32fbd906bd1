"""A language model's package writes a text on as the compressed model does, and reads each token once."""

import json

import numpy as np
import onnx
import pytest
import torch
from tokenizers import Tokenizer

from tests.actions.packages.test_packages import finished, its_tests, unpacked, without_pare
from tests.engine.exporters.test_delivered import language_model, prose
from webapp.engine.architectures.build import build
from webapp.engine.exporters.onnx.signature import TOKENIZER
from webapp.engine.weights.artifact import read_model

__all__ = ["language_model", "prose"]

ASKED = """
import json, onnxruntime
read, run = [], onnxruntime.InferenceSession.run

def counted(session, wanted, given):
    read.append(given["input_ids"].shape[1])
    return run(session, wanted, given)

onnxruntime.InferenceSession.run = counted
from model import OnnxModel
model = OnnxModel()
text = model.continued("the cat sat", 6)
print(json.dumps({"text": text, "read": read}))
"""


@pytest.mark.parametrize("target", [pytest.param("onnxruntime", marks=pytest.mark.slow), "flask"])
def test_it_writes_on_as_the_model_does(tmp_path, language_model, prose, target):
    taken = finished(tmp_path, language_model, prose, ("weight_quantization", {"bits": 8}))
    folder = unpacked(taken, target, tmp_path / "out")
    done = its_tests(folder)
    assert done.returncode == 0, done.stderr
    asked = without_pare(folder, ASKED)
    assert asked.returncode == 0, asked.stderr
    told = json.loads(asked.stdout)
    (artifact,) = (each for each in taken.run.artifacts if each.format == "safetensors")
    module, tokenizer = (
        build(read_model(taken.files.path(artifact.digest))),
        Tokenizer.from_file(str(folder / TOKENIZER)),
    )
    ids = tokenizer.encode("the cat sat").ids
    with torch.inference_mode():
        for _ in range(6):
            ids.append(int(module(input_ids=torch.tensor([ids]))["logits"][0, -1].argmax()))
    assert told["text"] == tokenizer.decode(ids)
    assert told["read"] == [3, 1, 1, 1, 1, 1]
    held = {each.name for each in onnx.load(folder / "model.onnx").graph.input}
    assert {"input_ids", "attention_mask", "past_key_values.1.value"} <= held
    with np.load(folder / "example.npz") as example:
        assert set(example) == {"input.input_ids", "input.attention_mask", "output"}
