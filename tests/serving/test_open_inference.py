"""The Open Inference Protocol, in JSON and in bytes."""

import json

import numpy as np
import pytest

from tests.serving.small_models import WEIGHT

X = np.array([[1, 2, 3], [0, 0, 1]], np.float32)


def asked(**more):
    return {"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": X.tolist()} | more]}


def test_it_says_what_it_serves(classifier):
    assert classifier.get("/v2")[1]["name"] == "pare"
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/rows/ready", "/v2/models/rows/versions/1/ready"):
        assert classifier.get(path)[0] == 200
    _, told = classifier.get("/v2/models/rows")
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert told["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 2]}]
    assert classifier.get("/v2/models/other")[0] == 404


def test_json(classifier):
    status, told = classifier.post("/v2/models/rows/infer", asked() | {"id": "7"})
    assert status == 200
    assert told["id"] == "7"
    (out,) = told["outputs"]
    assert (out["name"], out["datatype"], out["shape"]) == ("logits", "FP32", [2, 2])
    assert out["data"] == (X @ WEIGHT).ravel().tolist()


def test_bytes_both_ways(classifier):
    head = {
        "inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": X.nbytes}}]
    }
    head |= {"outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}
    front = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(front))}
    status, told, body = classifier.send("POST", "/v2/models/rows/infer", front + X.tobytes(), headers)
    assert status == 200, body
    size = int(told["inference-header-content-length"])
    assert json.loads(body[:size])["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert np.array_equal(np.frombuffer(body[size:], np.float32).reshape(2, 2), X @ WEIGHT)


def test_text(encoder):
    text = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["one two", "three"]}
    status, told = encoder.post("/v2/models/encoder/infer", {"inputs": [text]})
    assert status == 200, told
    assert np.array(told["outputs"][0]["data"]).reshape(2, 2, 8).argmax(-1).tolist() == [[2, 3], [4, 0]]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (asked(datatype="INT64"), "The input x takes FP32; got INT64."),
        (asked(shape=[3, 3]), r"The input x has 6 values; its shape is [3, 3]."),
        (asked(shape=[3, 2]), "The input x has shape [3, 2]; expected [batch, 3]."),
        (asked(shape=[-2, -3]), "needs its shape"),
        (asked(name="y"), "There is no input 'y'"),
        (asked(parameters={"binary_data_size": 24}), "announces 24 bytes; 0 are there"),
        ({"inputs": []}, "list of objects"),
        (asked() | {"outputs": [{"name": "z"}]}, "There is no output 'z'"),
    ],
)
def test_what_does_not_fit_is_named(classifier, body, sentence):
    status, told = classifier.post("/v2/models/rows/infer", body)
    assert status == 400
    assert sentence in told["error"]
