"""KServe's client, which speaks TensorFlow Serving's REST protocol (v1) and the Open Inference Protocol (v2)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.deployed_models import deployed_models

PYTHON = Path(sys.prefix, "kserve", "bin", "python")  # an environment of its own, made by `make cases`
ROWS = [[1, 2, 3], [0, 0, 1]]


def test_its_client_asks_a_deployed_model_in_both_protocols(tmp_path_factory):
    if not PYTHON.exists():
        pytest.fail("kserve is not installed; `make cases` installs it.")
    with deployed_models(tmp_path_factory, "rows") as deployed:
        url, token = deployed["rows"]
        command = [str(PYTHON), str(Path(__file__).with_name("ask_kserve.py")), url, "rows", json.dumps(ROWS)]
        done = subprocess.run(command, input=token, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    print(said)
    assert said["v1"] == {"predictions": said["v2"]}
    assert said["v2"] == said["v2, binary"] == [[7.0, -1.0], [2.0, -1.0]]
    assert said["ready"]
    assert said["live"]
