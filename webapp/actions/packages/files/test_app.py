"""Whether the endpoint answers the shipped example and says what is wrong with others: `python -m unittest`."""

import unittest

import numpy as np
from app import app
from model import ABOUT, HERE, OnnxModel


class EndpointTest(unittest.TestCase):
    def setUp(self):
        self.client = app.test_client()
        example = np.load(HERE / "example.npz", allow_pickle=False)
        self.inputs = {name: example[f"input.{name}"].tolist() for name in OnnxModel().inputs}
        self.expected = example["output"]

    def test_the_example(self):
        answer = self.client.post("/predict", json={"inputs": self.inputs}).get_json()
        if ABOUT["classifies"]:
            names = ABOUT["classes"] or [str(place) for place in range(self.expected.shape[-1])]
            assert answer["predictions"][0]["class"] == names[self.expected[0].argmax()]
        else:
            largest = float(np.abs(np.array(answer["outputs"]) - self.expected).max())
            assert largest <= ABOUT["tolerance"]

    def test_what_is_missing_is_named(self):
        answer = self.client.post("/predict", json={"inputs": {}})
        assert answer.status_code == 400
        assert next(iter(self.inputs)) in answer.get_json()["error"]


if __name__ == "__main__":
    unittest.main()
