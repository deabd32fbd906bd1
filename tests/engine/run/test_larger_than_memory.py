"""A checkpoint that is four times as large as the memory that its processes may take."""

import json

import pytest
import torch

from tests.benchmarks.whole_runs import EIGHT, Row, Shape, made, measured
from webapp.engine.weights.artifact import read_model

LIMIT_BYTES = 900_000_000  # of each process, half of which imports take


@pytest.mark.slow
def test_it_is_compressed_written_and_proven(tmp_path):
    folder = tmp_path / "large"
    made(Shape(1536, 4096, 36), folder, torch.float32)
    assert (folder / "model.safetensors").stat().st_size > 4 * LIMIT_BYTES
    row = Row("", "", (EIGHT,), (), limit_bytes=LIMIT_BYTES)
    found = measured(row, folder, tmp_path, keep=True)
    assert found.status == 0, found.said
    receipt = json.loads((tmp_path / "out" / "receipt.json").read_text())
    assert len(receipt["proof"]) == 1
    assert all(proof["agreed"] for proof in receipt["proof"])
    model = read_model(tmp_path / "out" / "model.safetensors")
    assert model.bytes == sum(row["bytes"] for row in receipt["bytes"]["tensors"])
