"""What is told of some samples, for the dataset's page."""

import numpy as np
import pytest

from webapp.engine.data.samples import SHOWN_FILE, shown_images


@pytest.fixture
def inspected_arrays(bench):
    def inspected_arrays(**arrays):
        np.savez(bench.root / "a.npz", **arrays)
        return bench.dataset(bench.root / "a.npz", split="all")

    return inspected_arrays


def test_arrays_that_are_images_are_drawn(bench, inspected_arrays):
    ramp = np.linspace(-2, 2, 3 * 4 * 5, dtype=np.float32).reshape(1, 3, 4, 5).repeat(30, 0)
    facts = inspected_arrays(x=ramp, y=np.arange(30) % 3)
    assert facts.samples[1] == {"label": 0, "width": 5, "height": 4}
    drawn = shown_images(bench.out / SHOWN_FILE)
    assert [image.size for image in drawn] == [(5, 4)] * 10
    assert (drawn[0].getpixel((0, 0))[0], drawn[0].getpixel((4, 3))[2]) == (0, 255)


@pytest.mark.parametrize("labelled", [True, False])
def test_rows_of_numbers_are_told(inspected_arrays, labelled):
    rows = np.array([[0, 1e-9, 1 / 3], [4, 5, 6]], np.float32)
    facts = inspected_arrays(x=rows, **({"y": np.array([0, 1])} if labelled else {}))
    told = [{"numbers": [0.0, 1e-9, 0.33333]}, {"numbers": [4.0, 5.0, 6.0]}]
    assert list(facts.samples) == [each | ({"label": n} if labelled else {}) for n, each in enumerate(told)]


@pytest.mark.parametrize("shape", [(6, 2, 4, 4), (6, 3, 4)])
def test_of_other_shapes_nothing_is_shown(bench, inspected_arrays, shape):
    assert inspected_arrays(x=np.zeros(shape, np.float32)).samples == ()
    assert not (bench.out / SHOWN_FILE).exists()
