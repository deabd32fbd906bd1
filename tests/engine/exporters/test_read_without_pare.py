"""What Pare delivers is read elsewhere: a page of NumPy, in a process that has nothing of Pare, finds every weight."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from webapp.engine.facts import Layout
from webapp.engine.math.grids import QuantizationScheme
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import prepare
from webapp.engine.techniques import Context
from webapp.engine.weights import Dense, FactoredConv, Pivoted, Quantized
from webapp.engine.weights.artifact import write_model
from webapp.engine.weights.model import Model

PAGE = Path(__file__).parents[3] / "docs/read_without_pare.py"
PRUNE, HALF = ("magnitude_pruning", {"sparsity": 0.6}), ("cast", {"dtype": "bfloat16"})
FACTOR = ("low_rank", {"by": "rank", "rank": 5})


def dense(*shape):
    return Dense(torch.randn(shape, generator=torch.Generator().manual_seed(4)))


CHAIN = FactoredConv(dense(2, 4, 1, 1), dense(3, 2, 3, 5), dense(6, 3, 1, 1))
PIVOTED_FILTERS = Pivoted(dense(2, 4, 3, 3), dense(3, 2, 1, 1), torch.tensor([0, 1, 0, 0, 1]).bool())
TURNED_CHAIN = FactoredConv(dense(4, 2, 1, 1), dense(2, 3, 3, 5), dense(3, 6, 1, 1), transposed=True)
PIVOTED_KERNELS = Pivoted(dense(4, 2, 3), dense(2, 3, 1), torch.tensor([0, 1, 0, 0, 1]).bool(), transposed=True)
TURNED = {  # in bits, by their layouts
    "turned": (Layout(True), (7, 5, 3)),
    "grouped": (Layout(True, 2), (6, 5, 3, 2)),
    "experts": (Layout(False, 3, True), (3, 5, 4)),
    "inputs first": (Layout(True, 3, True), (3, 5, 4)),
}
PIVOTED_COLUMNS = Pivoted(dense(7, 2), dense(2, 3), torch.tensor([0, 1, 0, 0, 1]).bool(), transposed=True)


def quantize(bits, **more):
    return "weight_quantization", {"bits": bits, **more}


@pytest.mark.parametrize(
    "steps",
    [
        [HALF],
        [PRUNE],
        [PRUNE, quantize(8)],
        [PRUNE, quantize(4, symmetric=False, granularity="group", group_size=24)],
        [quantize(4, granularity="group", group_size=10)],
        [quantize(3, granularity="group", group_size=10, symmetric=False)],
        [quantize(5), HALF],
        [quantize(4, numbers="normal", granularity="group", group_size=24)],
        [PRUNE, (*quantize(3, numbers="fitted"), ("2", {"bits": 6}))],
        [FACTOR, PRUNE, quantize(8), HALF],
        [("low_rank", {"ratio": 0.5, "form": "factors"}), quantize(4)],
    ],
)
def test_a_page_of_numpy_reads_every_kind_of_weight(inspected, tmp_path, steps):
    """Of checkpoints in each dtype, their weights in one file."""
    weights = {}
    asked = [{"technique": name, "settings": own, "overrides": dict(overrides)} for name, own, *overrides in steps]
    recipe = Recipe.read({"steps": asked})
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)).to(dtype)
        folder, facts = inspected(module, str(dtype))
        model = Model.of_checkpoint(folder, facts)
        for step in prepare(facts, recipe):
            step.technique.apply(model, step.settings, Context(step.layers, 0, Silent()))
        weights |= {f"{dtype}.{name}": encoded for name, encoded in model.weights.items()}
    write_model(Model(weights), tmp_path / "model.safetensors")
    command = [sys.executable, "-I", PAGE, tmp_path / "model.safetensors", tmp_path / "weights.npz"]
    subprocess.run(command, check=True, cwd=tmp_path)
    with np.load(tmp_path / "weights.npz") as found:
        assert set(found.files) == set(weights)
        for name, encoded in weights.items():
            values, expected = torch.from_numpy(found[name]), encoded.decode().float()
            if encoded.factors:  # sums, which two libraries may add up in other orders
                assert torch.allclose(values, expected, atol=1e-6)
            else:
                assert torch.equal(values, expected)


def test_the_page_reads_factors_and_integers_of_every_shape(tmp_path):
    weights = dict(enumerate((CHAIN, TURNED_CHAIN, PIVOTED_FILTERS, PIVOTED_KERNELS, PIVOTED_COLUMNS)))
    weights |= {
        name: Quantized.nearest(dense(*shape).decode(), QuantizationScheme(4, 2), layout)
        for name, (layout, shape) in TURNED.items()
    }
    model = Model({f"{name}.weight": encoded for name, encoded in weights.items()})
    write_model(model, tmp_path / "model.safetensors")
    command = [sys.executable, "-I", PAGE, tmp_path / "model.safetensors", tmp_path / "weights.npz"]
    subprocess.run(command, check=True, cwd=tmp_path)
    with np.load(tmp_path / "weights.npz") as found:
        for name, encoded in model.weights.items():
            assert found[name].shape == encoded.shape, name
            assert torch.allclose(torch.from_numpy(found[name]), encoded.decode(), atol=1e-5), name
