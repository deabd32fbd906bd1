"""What a budget expected stands beside what was measured, and the profile learns what it was."""

import pytest

from webapp.engine.run.expectation import beside, learned

EXPECTED = {
    "profile_id": "p",
    "size_bytes": 1000,
    "loss": {"value": 0.1, "low": 0.05, "high": 0.2, "unit": "nats", "metric": "kl_divergence"},
    "points": {"value": 1.0, "low": 0.0, "high": 2.0},
    "predicted": {"Quantization": 0.08, "Pruning": 0.03},
}
VERDICT = {"metric": "accuracy", "difference": -0.03, "ci95": [-0.04, -0.01]}


def result(loss, size=990):
    return {"size_bytes": size, "metrics": {"kl_divergence": {"value": loss, "ci95": loss and [loss / 2, loss * 2]}}}


def test_each_figure_stands_beside_what_was_measured():
    told = beside(EXPECTED, result(0.15), VERDICT)
    assert told["profile_id"] == "p"
    assert [(row["label"], row["expected"], row["interval"], row["measured"]) for row in told["rows"]] == [
        ("File", 1000, None, 990),
        ("Loss", 0.1, [0.05, 0.2], 0.15),
        ("Accuracy lost", 1.0, [0.0, 2.0], 3.0),
    ]
    assert told["rows"][1]["ci95"] == [0.075, 0.3]
    assert [(row["says"], row["inside"]) for row in told["rows"]] == [
        ("not larger", True),
        ("inside", True),
        ("above", False),
    ]


@pytest.mark.parametrize(("loss", "says", "inside"), [(0.01, "below", False), (None, "not measured", None)])
def test_a_loss_below_the_interval_is_outside_and_one_that_is_no_number_neither(loss, says, inside):
    row = beside(EXPECTED, result(loss), VERDICT)["rows"][1]
    assert (row["says"], row["inside"]) == (says, inside)


def test_a_loss_that_is_rounding_of_floats_is_none():
    """Of a model whose output hardly varies 1e-50 may be expected."""
    hardly = {"unit": "nats", "value": 8e-52, "low": 2e-52, "high": 3e-51}
    row = beside(EXPECTED | {"loss": hardly}, result(0.0), VERDICT)["rows"][1]
    assert row["says"] == "inside"


def test_a_file_that_is_larger_says_so():
    row = beside(EXPECTED, result(0.1, size=1001), VERDICT)["rows"][0]
    assert (row["says"], row["inside"]) == ("larger", False)


def test_a_profile_learns_what_was_measured():
    found = learned(EXPECTED, result(0.15), VERDICT, "r")
    assert (found.predicted, found.loss, found.points, found.size_bytes, found.run_id) == (
        EXPECTED["predicted"],
        0.15,
        3.0,
        990,
        "r",
    )
    assert learned(EXPECTED, result(0.15), VERDICT | {"metric": "mse"}, "r").points is None
    assert learned(EXPECTED, result(None), VERDICT, "r") is None
    assert learned(EXPECTED, {"size_bytes": 1, "metrics": {}}, VERDICT, "r") is None
