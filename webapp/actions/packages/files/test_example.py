"""Whether the model answers here as it did where it was compressed: `python -m unittest`."""

import unittest

import numpy as np
from model import ABOUT, HERE, OnnxModel


class Example(unittest.TestCase):
    def test_the_shipped_example_is_answered_as_it_was(self):
        model = OnnxModel()
        example = np.load(HERE / "example.npz", allow_pickle=False)
        found = model.run({name: example[f"input.{name}"] for name in model.inputs})
        expected = example["output"]
        assert found.shape == expected.shape
        largest = float(np.abs(found - expected).max())
        assert largest <= ABOUT["tolerance"], "another machine adds up in another order, but not so much"


if __name__ == "__main__":
    unittest.main()
