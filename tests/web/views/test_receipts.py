"""The receipt's page says all that the receipt says."""

import json

from webapp.engine.run.expectation import beside


def test_the_page_shows_every_part(client, run):
    page = client.get(f"/runs/{run.id}/receipt").text
    for heading in (
        "Quality",
        "Requested vs. achieved",
        "Not reached by any step",
        "2 vectors, such as layers.0.bias",
        "Savings by step",
        "Every byte",
        "Speed",
        "Proof",
        "Provenance",
    ):
        assert heading in page
    assert "adds up to the byte" in page
    assert run.receipt["verdict"]["sentence"] in page
    assert "a" * 64 in page
    assert "−2.00" in page or "-2.00 points" in page


def test_what_a_budget_expected_stands_beside_what_was_measured(client, session, run):
    assert "Expected and measured" not in client.get(f"/runs/{run.id}/receipt").text
    loss = {"value": 0.1, "low": 0.05, "high": 0.2, "unit": "nats", "metric": "kl_divergence"}
    measured = {"size_bytes": 4_990, "metrics": {"kl_divergence": {"value": 0.25, "ci95": [0.2, 0.3]}}}
    told = beside({"profile_id": "p", "size_bytes": 5_000, "loss": loss}, measured, {"metric": None})
    run.receipt = run.receipt | {"prediction": told}
    session.commit()
    table = client.get(f"/runs/{run.id}/receipt").text.split("Expected and measured</h2>")[1].split("</table>")[0]
    for figure in ("5,000", "4,990", "0.05 to 0.2", "0.25", "0.2 to 0.3", "not larger", "above"):
        assert figure in table


def test_what_was_not_reached_is_red_and_comes_first(client, run):
    table = client.get(f"/runs/{run.id}/receipt").text.split("Requested vs. achieved</h2>")[1].split("</table>")[0]
    assert "1 of 2 not as requested" in table
    assert table.index('class="missed"') < table.index(">layers.0<")
    assert "It is too small to be pruned." in table


def test_bytes_that_do_not_add_up_are_said(client, session, run):
    receipt = json.loads(json.dumps(run.receipt))
    receipt["bytes"]["file"][0]["bytes"] -= 7
    run.receipt = receipt
    session.commit()
    assert "does not add up: 7 bytes are missing" in client.get(f"/runs/{run.id}/receipt").text


def test_what_was_assumed_of_the_wiring_is_said_once(client, session, run):
    sentence = "Its wiring is a guess that nothing confirms. Stride 1 is assumed."
    wiring = {"confirmed": False, "contradicted": False, "sentence": sentence}
    notes = ["Stride 1 is assumed.", sentence, "It has a tokenizer."]
    run.receipt = run.receipt | {"wiring": wiring, "notes": notes}
    session.commit()
    page = client.get(f"/runs/{run.id}/receipt").text
    assert page.count("Stride 1 is assumed.") == 1
    assert "It has a tokenizer." in page
    run.receipt = run.receipt | {"wiring": wiring | {"confirmed": True}, "notes": [sentence]}
    session.commit()
    assert sentence in client.get(f"/runs/{run.id}/receipt").text


def test_the_json_is_the_receipt(client, run):
    answer = client.get(f"/runs/{run.id}/receipt.json")
    assert answer.json == run.receipt
    assert answer.headers["Content-Disposition"] == "attachment; filename=Magnitude-pruning-50.receipt.json"


def test_a_run_without_receipt_says_why(client, session, run):
    run.receipt = None
    session.commit()
    assert "a receipt is written when a run has succeeded" in client.get(f"/runs/{run.id}/receipt").text
    assert client.get(f"/runs/{run.id}/receipt").status_code == 404


def test_without_quality_and_speed_the_page_says_so(client, session, run):
    run.receipt = run.receipt | {
        "quality": [],
        "speed": None,
        "quality_unavailable": "This checkpoint is weights only.",
    }
    session.commit()
    page = client.get(f"/runs/{run.id}/receipt").text
    assert "This checkpoint is weights only." in page
    assert "Speed was not measured" in page
