"""Packages without code: the version folder answers in TensorFlow, and the GGUF file is the one that was proven."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import yaml
from gguf import GGUFReader

from tests.actions.packages.test_packages import finished, unpacked
from tests.engine.exporters.test_delivered import language_model, prose
from webapp.actions.packages import offered

__all__ = ["language_model", "prose"]

TENSORFLOW = """
import json, sys, numpy, tensorflow as tf
assert "webapp" not in sys.modules and "torch" not in sys.modules
asked = json.load(open(sys.argv[2]))
model = tf.saved_model.load(sys.argv[1])
answer = model.signatures[asked["signature_name"]](**{n: tf.constant(v) for n, v in asked["inputs"].items()})
(output,) = answer.values()
numpy.save(sys.argv[3], output.numpy())
"""


def test_tensorflow_answers_the_shipped_request_from_the_version_folder(tmp_path, mlp, labelled):
    taken = finished(
        tmp_path, mlp, labelled, ("weight_quantization", {"bits": 8}), exports=("safetensors", "savedmodel")
    )
    folder = unpacked(taken, "tensorflow-serving", tmp_path / "out")
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["model"]
    (volume,) = service["volumes"]
    here, there, mode = volume.split(":")
    assert f"--model_base_path={there}" in service["command"]
    assert mode == "ro"
    versions = [path.name for path in (folder / here).iterdir()]
    assert versions == ["1"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", TENSORFLOW, folder / here / "1", folder / "request.json", tmp_path / "found.npy"]
    subprocess.run(command, check=True, cwd=tmp_path, env=env)
    _, model = offered(taken.run)["tensorflow-serving"]
    with replace(taken, model=model).example() as file, np.load(file) as example:
        assert np.allclose(np.load(tmp_path / "found.npy"), example["output"], atol=1e-5)
    name = here.removeprefix("./")
    assert f"/v1/models/{name}:predict" in (folder / "README.md").read_text()


def test_the_gguf_file_is_the_one_that_was_proven_and_comes_with_its_commands(tmp_path, language_model, prose):
    taken = finished(
        tmp_path, language_model, prose, ("weight_quantization", {"bits": 8}), exports=("safetensors", "gguf")
    )
    folder = unpacked(taken, "llama-cpp", tmp_path / "out")
    (model,) = (path for path in folder.iterdir() if path.suffix == ".gguf")
    (artifact,) = (each for each in taken.run.artifacts if each.format == "gguf")
    assert artifact.proof["agreed"]
    assert model.stat().st_size == artifact.size_bytes
    fields = GGUFReader(model).fields
    assert fields["general.architecture"].contents() == "llama"
    assert f"{model.name} has no tokenizer" in (folder / "README.md").read_text(), "llama.cpp has none of single words"

    (stage,) = (stage for stage in taken.run.stages if stage.name == "export-gguf")
    stage.facts |= {"reads_text": True, "notes": ["Its tokens split otherwise."]}
    said = (unpacked(taken, "llama-cpp", tmp_path / "text") / "README.md").read_text()
    assert set(re.findall(r"-m (\S+)", said)) == {"model.gguf"}
    assert "- Its tokens split otherwise." in said
    assert "no tokenizer" not in said
