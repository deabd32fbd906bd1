"""TensorFlow Serving's REST: rows and columns in, the graph's own answers out, and refusals that name the input."""

import re

import numpy as np
import pytest

from tests.serving.small_models import WEIGHT

PREDICT = "/v1/models/rows:predict"
ROWS = [[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]]


def test_rows(classifier):
    expected = (np.array(ROWS, np.float32) @ WEIGHT).tolist()
    assert classifier.post(PREDICT, {"instances": ROWS}) == (200, {"predictions": expected})
    named = {"signature_name": "serving_default", "instances": [{"x": row} for row in ROWS]}
    assert classifier.post(PREDICT, named) == (200, {"predictions": expected})
    assert classifier.post("/v1/models/rows/versions/1:predict", {"instances": ROWS})[0] == 200


def test_columns(classifier):
    expected = (np.array(ROWS, np.float32) @ WEIGHT).tolist()
    assert classifier.post(PREDICT, {"inputs": {"x": ROWS}}) == (200, {"outputs": expected})
    assert classifier.post(PREDICT, {"inputs": ROWS}) == (200, {"outputs": expected})


def test_status_and_metadata(classifier):
    status, told = classifier.get("/v1/models/rows")
    assert status == 200
    assert told["model_version_status"][0]["state"] == "AVAILABLE"
    _, told = classifier.get("/v1/models/rows/metadata")
    definition = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert definition["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in definition["inputs"]["x"]["tensor_shape"]["dim"]] == ["-1", "3"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"instances": [[1, 2]]}, r"The input x has shape \[1, 2\]; expected \[batch, 3\]."),
        ({"instances": [[1, 2, 3], [1, 2]]}, "The input x is ragged"),
        ({"instances": [["a", "b", "c"]]}, "The input x takes float32; got text."),
        ({"instances": [{"y": [1, 2, 3]}]}, "There is no input 'y'; the model takes x."),
        ({"instances": [{"x": [1, 2, 3]}, {}]}, "Row 1 of instances does not have the inputs of row 0."),
        ({"instances": []}, "at least one row"),
        ({"instances": [[1, 2, 3]], "inputs": []}, "either instances"),
        ({}, "either instances"),
        ({"instances": [[1, 2, 3]], "signature_name": "other"}, "There is no signature 'other'"),
        ({"inputs": {"text": ["hello"]}}, "rows takes no text"),
        (b"{", "not JSON"),
        (b"[1]", "JSON object"),
    ],
)
def test_what_does_not_fit_is_named(classifier, body, sentence):
    status, told = classifier.post(PREDICT, body)
    assert status == 400
    assert set(told) == {"error"}
    assert re.search(sentence, told["error"]), told


def test_another_model_or_version_is_not_here(classifier):
    for path in ("/v1/models/other:predict", "/v1/models/rows/versions/2:predict", "/nowhere"):
        assert classifier.post(path, {"instances": ROWS})[0] == 404


def test_text_becomes_tokens(encoder):
    rows = {"instances": [{"text": "one two"}, {"text": "one"}]}
    status, told = encoder.post("/v1/models/encoder:predict", rows)
    assert status == 200, told
    ids = np.array(told["predictions"]).argmax(-1)
    assert ids.tolist() == [[2, 3], [2, 0]]  # the shorter is padded
    assert encoder.post("/v1/models/encoder:predict", {"instances": ["one two", "one"]})[1] == told
    assert encoder.post("/v1/models/encoder:predict", {"inputs": {"text": ["one two", "one"]}})[1] == {
        "outputs": told["predictions"]
    }


def test_tokens_need_no_mask_and_stay_within_the_vocabulary(encoder):
    path = "/v1/models/encoder:predict"
    status, told = encoder.post(path, {"instances": [[2, 3]]})
    assert (status, np.array(told["predictions"]).argmax(-1).tolist()) == (200, [[2, 3]])
    mask = {"inputs": {"input_ids": [[2, 3]], "attention_mask": [[1]]}}
    assert "differ in sequence" in encoder.post(path, mask)[1]["error"]
    assert encoder.post(path, {"instances": [[2.5, 3]]}) == (
        400,
        {"error": "The input input_ids takes int64; got numbers with a fraction."},
    )
    status, told = encoder.post(path, {"instances": [[99]]})
    assert status == 400
    assert "cannot compute with this input" in told["error"]
    assert "/" not in told["error"]
