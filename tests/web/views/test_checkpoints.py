from tests.web.views.page import Page
from tests.web.views.seeded import seed_checkpoint, seed_dataset
from webapp.store.models import Checkpoint, UploadState


def test_a_checkpoint_lists_its_tensors_and_totals(client, session):
    checkpoint = seed_checkpoint(session)
    text = Page(client.get(f"/checkpoints/{checkpoint.id}").text).text
    for shown in ("MLP 64-32-10", "layers.0.weight", "32 × 64", "2,410", "float32", "10.0 kB"):
        assert shown in text


def test_a_refused_upload_says_why_and_offers_another(client, session):
    reason = {"code": "checkpoint_refused", "message": "cut.safetensors is cut off after 12 bytes."}
    row = Checkpoint(
        name="cut.safetensors",
        filename="cut.safetensors",
        size_bytes=12,
        digest="0" * 64,
        state=UploadState.REFUSED,
        reason=reason,
    )
    session.add(row)
    session.commit()
    page = Page(client.get(f"/checkpoints/{row.id}").text)
    assert reason["message"] in page.text
    assert page.of("a", href="/checkpoints/new")
    assert page.of("span", data_state="refused")


def test_an_upload_under_inspection_is_watched(client, session):
    row = Checkpoint(name="a.pt", filename="a.pt", size_bytes=12, digest="0" * 64)
    session.add(row)
    session.commit()
    page = Page(client.get(f"/checkpoints/{row.id}").text)
    assert page.of("section", data_inspection=f"/api/v1/checkpoints/{row.id}")


def test_weights_only_says_that_accuracy_is_unavailable_and_why(client, session):
    checkpoint = seed_checkpoint(session)
    sentence = "Its tensors are those of no architecture that is known."
    checkpoint.facts = checkpoint.facts | {"architecture": None, "weights_only_because": sentence}
    session.commit()
    text = Page(client.get(f"/checkpoints/{checkpoint.id}").text).text
    assert "accuracy is not available" in text
    assert sentence in text


def test_two_thousand_tensors_are_one_page(client, session):
    checkpoint = seed_checkpoint(session)
    tensors = [{"name": f"blocks.{n}.weight", "shape": [8, 8], "dtype": "float32"} for n in range(2000)]
    checkpoint.facts = checkpoint.facts | {"tensors": tensors, "layers": []}
    session.commit()
    page = Page(client.get(f"/checkpoints/{checkpoint.id}").text)
    assert "blocks.1999.weight" in page.text
    assert "2,000" in page.text


def test_a_tied_tensor_is_shown_with_the_one_it_shares(client, session):
    checkpoint = seed_checkpoint(session)
    checkpoint.facts = checkpoint.facts | {"tied": {"head.weight": "layers.0.weight"}}
    session.commit()
    assert "the same tensor as layers.0.weight" in Page(client.get(f"/checkpoints/{checkpoint.id}").text).text


def test_a_checkpoint_with_runs_is_not_deleted(client, run, session):
    answer = client.post(f"/checkpoints/{run.checkpoint_id}/delete")
    assert answer.status_code == 409
    assert "Delete the runs first" in Page(answer.text).text
    assert session.get(Checkpoint, run.checkpoint_id) is not None


def test_a_checkpoint_without_runs_is_deleted(client, session):
    id_ = seed_checkpoint(session).id
    answer = client.post(f"/checkpoints/{id_}/delete", follow_redirects=True)
    assert "digits.safetensors was deleted" in Page(answer.text).text
    session.expire_all()
    assert session.get(Checkpoint, id_) is None


def test_an_unknown_checkpoint_is_a_page_that_says_so(client):
    answer = client.get("/checkpoints/nothinghere2")
    assert answer.status_code == 404
    assert "There is no page at this address" in Page(answer.text).text


def test_the_owner_says_what_it_is_for_on_its_page(client, session):
    checkpoint = seed_checkpoint(session)
    page = Page(client.get(f"/checkpoints/{checkpoint.id}").text)
    assert page.of("select", name="task")
    assert "Classification, as its architecture tells" in page.text
    assert [option for option in page.of("option", value="causal-lm") if "disabled" in option]
    said = client.post(f"/checkpoints/{checkpoint.id}/task", data={"task": "embedding"}, follow_redirects=True)
    assert "Evaluated by the cosine to the original's vectors" in Page(said.text).text
    refused = client.post(f"/checkpoints/{checkpoint.id}/task", data={"task": "causal-lm"}, follow_redirects=True)
    assert "cannot be used as a language model" in Page(refused.text).text
    session.expire_all()
    assert (checkpoint.task, checkpoint.facts["architecture"]["task"]) == ("embedding", "embedding")


def test_the_owner_says_what_it_is_for_through_the_api(client, session):
    checkpoint = seed_checkpoint(session)
    address = f"/api/v1/checkpoints/{checkpoint.id}"
    for asked, task in (("Regression", "regression"), ("distance only", "distance"), (None, "classification")):
        answer = client.patch(address, json={"task": asked})
        assert (answer.status_code, answer.json["task"]) == (200, task)
    unfit = client.patch(address, json={"task": "segmentation"})
    assert (unfit.status_code, unfit.json["error"]["code"], unfit.json["error"]["field"]) == (422, "task_unfit", "task")
    assert client.patch(address, json={"task": 3}).status_code == 422
    checkpoint.state = UploadState.INSPECTING
    session.commit()
    assert client.patch(address, json={"task": "regression"}).status_code == 409
    assert client.put("/api/v1/checkpoints?name=a.pt&task=juggling", data=b"x").json["error"]["field"] == "task"


def test_a_run_keeps_the_task_that_it_was_asked_for_with(client, session):
    checkpoint, dataset = seed_checkpoint(session), seed_dataset(session)
    body = {
        "checkpoint_id": checkpoint.id,
        "dataset_id": dataset.id,
        "recipe": {"steps": [{"technique": "weight_quantization", "settings": {"bits": 8}}]},
    }
    first = client.post("/api/v1/runs", json=body).json
    client.patch(f"/api/v1/checkpoints/{checkpoint.id}", json={"task": "embedding"})
    second = client.post("/api/v1/runs", json=body).json
    tasks = [client.get(f"/api/v1/runs/{run['id']}").json["task"] for run in (first, second)]
    assert tasks == ["classification", "embedding"]
