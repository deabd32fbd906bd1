"""What Pare delivers is read elsewhere: a page of NumPy, in a process that has nothing of Pare, finds every weight."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from tests.engine.weights.examples import DTYPES, EXAMPLES
from webapp.engine.weights.artifact import write_model
from webapp.engine.weights.model import Model

PAGE = Path(__file__).parents[3] / "docs/read_without_pare.py"


def test_a_page_of_numpy_reads_every_form_and_dtype(tmp_path):
    model = Model({f"{name}.{dtype}": make(DTYPES[dtype]) for name, make in EXAMPLES.items() for dtype in DTYPES})
    write_model(model, tmp_path / "model.safetensors")
    command = [sys.executable, "-I", PAGE, tmp_path / "model.safetensors", tmp_path / "weights.npz"]
    subprocess.run(command, check=True, cwd=tmp_path)
    with np.load(tmp_path / "weights.npz") as found:
        assert set(found.files) == set(model.weights)
        for name, encoded in model.weights.items():
            values, expected = torch.from_numpy(found[name]), encoded.decode().float()
            assert values.shape == expected.shape, name
            if encoded.factors:  # sums, which two libraries may add up in other orders
                assert torch.allclose(values, expected, atol=1e-5), name
            else:
                assert torch.equal(values, expected), name
