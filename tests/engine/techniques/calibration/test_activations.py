"""The ranges of activations: each method keeps what it promises on values whose distribution is known."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from webapp.engine.techniques.calibration.activations import Histogram
from webapp.engine.techniques.calibration.followers import followers


def seen(*batches):
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


def ends(found):
    return -found.scale * found.zero, found.scale * (255 - found.zero)


@pytest.fixture
def normal():
    return torch.randn(200_000, generator=torch.Generator().manual_seed(0))


def test_minmax_reaches_every_value(normal):
    low, high = ends(seen(normal, 3 * normal).range("minmax"))
    assert low == pytest.approx(3 * float(normal.min()), rel=0.02)
    assert high == pytest.approx(3 * float(normal.max()), rel=0.02)


def test_percentile_leaves_the_rarest_out(normal):
    low, high = ends(seen(normal).range("percentile", 99.0))
    assert low == pytest.approx(-2.576, abs=0.05)
    assert high == pytest.approx(2.576, abs=0.05)


@pytest.mark.parametrize(("method", "outlier"), [("error", 50.0), ("entropy", 300.0)])
def test_a_single_outlier_is_cut_off_on_its_side(normal, method, outlier):
    low, high = ends(seen(torch.cat((normal, torch.tensor([outlier])))).range(method))
    assert high < 0.9 * outlier  # what it costs to cut one value is bought back on all others
    assert low < -3


def test_the_least_error_is_below_that_of_the_whole_range(normal):
    heavy = normal**5
    histogram = seen(heavy)
    errors = {m: float((histogram.range(m).rounded(heavy) - heavy).square().mean()) for m in ("error", "minmax")}
    assert errors["error"] <= errors["minmax"]


def test_values_that_are_no_numbers_and_empty_batches_are_passed_over():
    histogram = seen(torch.tensor([1.0, float("nan"), -2.0, float("inf")]), torch.empty(0))
    assert (histogram.low, histogram.high, histogram.seen) == (-2.0, 1.0, 2)
    for method in ("error", "minmax", "percentile", "entropy"):
        assert Histogram().range(method).scale > 0


def test_a_histogram_that_grows_keeps_its_counts(normal):
    assert seen(normal, 100 * normal).counts.sum() == 2 * len(normal)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(2, 2, 1) for _ in range(3))
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        y = functional.relu(self.norm(self.a(x)))
        return self.c(y) + functional.relu(self.b(y)) + self.b(y)


def test_what_follows_a_convolution_is_found():
    net = Net().eval()
    found = followers(net, ["a", "c"], lambda: net(torch.randn(1, 2, 3, 3)))
    assert (found["a"].at, found["a"].norm, found["a"].clipped) == ("norm", True, True)
    assert (found["c"].at, found["c"].norm, found["c"].clipped) == ("c", False, False)
