"""Which rows of a matrix stand for all."""

import torch

from webapp.engine.facts import PLAIN, LayerFacts
from webapp.engine.profiles.losses import ROWS, _some_rows
from webapp.engine.profiles.sensitivity import LayerSensitivity, Lookups
from webapp.engine.techniques.calibration import WeightMatrix
from webapp.engine.weights import Dense
from webapp.engine.weights.model import Model

LENGTH, WIDTH, LOOKED_UP = 4000, 8, 300


def test_rows_that_are_looked_up_stand_for_all_the_weight_of_a_table():
    table = torch.randn(LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(0, LENGTH, LENGTH // LOOKED_UP)[:LOOKED_UP]
    gradients = torch.randn(LOOKED_UP, WIDTH, generator=torch.Generator().manual_seed(1))
    known = LayerSensitivity(lookups=[Lookups([ids], [gradients])])
    layer = LayerFacts(name="table", kind="embedding", weight="table.weight", shape=(LENGTH, WIDTH))
    matrix = WeightMatrix(layer, "table", "", PLAIN, Model({"table.weight": Dense(table)}))

    rows, times = _some_rows(matrix, known)

    weight = known.weight_of_rows(table)
    assert rows is not None
    assert len(rows) <= max(ROWS, LENGTH // ROWS)
    assert len(rows.unique()) == len(rows)
    assert set(rows.tolist()) <= set(ids.tolist())
    assert torch.allclose(times @ weight[rows].double(), weight.double().sum(), rtol=1e-6)
    change = 0.1 * torch.randn(LENGTH, WIDTH, generator=torch.Generator().manual_seed(2))
    whole = known.row_costs(change, torch.arange(LENGTH), LENGTH, 1.0).sum()
    assert torch.isclose(known.row_costs(change[rows], rows, LENGTH, 1.0) @ times, whole, rtol=0.35)
