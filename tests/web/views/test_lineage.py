"""What goes on from results: trees, the best so far, versions, other data, and files that come back."""

import io
import re
import time

import pytest
from sqlalchemy import event, insert

from tests.web.views.page import Page
from tests.web.views.seeded import CONTENT, metric, seed_checkpoint, seed_dataset, seed_run
from webapp.actions.lineage import MOST, lineage_of_checkpoint, lineage_of_run
from webapp.actions.versions import name_without_version, suggested_version
from webapp.store.models import Checkpoint, Run, RunState, Study, UploadState
from webapp.web.extensions import db


def words(client, address):
    return " ".join(Page(client.get(address).text).text.split())


def told(node):
    """A tree of the API as nested tuples."""
    return node["name"], node["how"], [told(child) for child in node["children"]]


def again(session, name="again.safetensors", run=None):
    found = seed_checkpoint(session, name)
    found.delivered_by_id = run.id if run else None
    session.commit()
    return found


@pytest.fixture
def family(seed, session, run):
    """A run, one that continues it, a fork of that, and the fork's file as a checkpoint that has a run of its own."""
    second, third, other = (seed(name=name) for name in ("and 8 bits", "and other data", "something else"))
    second.continued_from_id, third.forked_from_id = run.id, second.id
    came_back = again(session, run=third)
    fourth = seed(name="further", checkpoint=came_back)
    return {"run": run, "second": second, "third": third, "other": other, "came_back": came_back, "fourth": fourth}


def test_a_checkpoint_s_tree_has_its_runs_what_goes_on_from_them_and_the_files_that_came_back(client, family):
    tree = client.get(f"/api/v1/checkpoints/{family['run'].checkpoint_id}/lineage").json
    came_back = ("again.safetensors", "uploaded again", [])
    line = (family["run"].name, "", [("and 8 bits", "continued", [("and other data", "forked", [came_back])])])
    assert told(tree) == ("digits.safetensors", "", [("something else", "", []), line])
    assert tree["current"]
    (below,) = (node for node in tree["children"] if node["name"] == family["run"].name)
    assert (below["size_bytes"], below["metric"], below["quality"]) == (5000, "accuracy", 0.95)


def test_what_pare_made_stands_below_the_run_that_delivered_it(client, family):
    tree = client.get(f"/api/v1/checkpoints/{family['came_back'].id}/lineage").json
    own = ("again.safetensors", "uploaded again", [("further", "", [])])
    assert told(tree) == ("digits.safetensors", "", [("and other data", "", [own])])
    assert tree["more"] == 3


def test_a_run_s_tree_leads_from_its_checkpoint_to_it_and_what_goes_on(client, family):
    tree = client.get(f"/api/v1/runs/{family['second'].id}/lineage").json
    line = (family["run"].name, "", [("and 8 bits", "continued", [("and other data", "forked", [])])])
    name, how, children = told(tree)
    assert (name, how, children[0][:2]) == ("digits.safetensors", "", line[:2])
    (second,) = tree["children"][0]["children"]
    assert (second["name"], second["current"]) == ("and 8 bits", True)
    assert [child["name"] for child in second["children"]] == ["and other data"]
    page = Page(client.get(f"/runs/{family['second'].id}").text)
    assert page.of("div", aria_current="true")
    assert len(page.of("ul", aria_labelledby="lineage-title")) == 1


def test_forks_of_another_checkpoint_s_run_stand_at_the_top(client, session, seed, run):
    newer = seed_checkpoint(session, "digits_v2.safetensors")
    applied = seed(name="applied", checkpoint=newer)
    applied.forked_from_id = run.id
    session.commit()
    assert told(client.get(f"/api/v1/checkpoints/{newer.id}/lineage").json)[2] == [("applied", "", [])]
    assert told(client.get(f"/api/v1/runs/{applied.id}/lineage").json)[2] == [("applied", "", [])]
    assert told(client.get(f"/api/v1/runs/{run.id}/lineage").json)[2] == [(run.name, "", [])]


def test_a_tree_stays_small_and_quick_with_10_000_runs(app, session, run, client):
    rows = [
        {
            "id": f"r{number:011}".replace("0", "a").replace("1", "b"),
            "name": f"run {number}",
            "checkpoint_id": run.checkpoint_id,
            "recipe": {"version": 2, "steps": [{"technique": "cast"}], "padding": "x" * 2000},
            "state": RunState.SUCCEEDED,
            "continued_from_id": run.id if number < 3000 else None,
            "forked_from_id": run.id if 3000 <= number < 5000 else None,
        }
        for number in range(10_000)
    ]
    for start in range(0, len(rows), 1000):
        session.execute(insert(Run), rows[start : start + 1000])
    session.commit()
    with app.app_context():
        statements = []
        event.listen(db.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
        checkpoint, own = db.session.get(Checkpoint, run.checkpoint_id), db.session.get(Run, run.id)
        statements.clear()
        began = time.perf_counter()
        trees = lineage_of_checkpoint(db.session, checkpoint), lineage_of_run(db.session, own)
        assert time.perf_counter() - began < 2  # it takes a twentieth of that
        assert len(statements) < 60

    def nodes(node):
        return 1 + sum(map(nodes, node.children))

    for tree in trees:
        assert nodes(tree) <= MOST
    assert trees[0].more == 5001 - 8
    (only,) = trees[1].children
    assert (len(only.children), only.more) == (4, 4996)
    assert len(client.get(f"/checkpoints/{run.checkpoint_id}").data) < 200_000
    text = words(client, f"/runs/{run.id}")
    assert "10,000 more runs of it" in text
    assert "4,996 more go on from it" in text


def test_the_best_so_far_is_promoted_by_hand_and_shown(client, session, seed, run):
    other = seed(name="better", size_bytes=4000)
    client.post(f"/runs/{run.id}/best", data={"best": "1"})
    client.post(f"/runs/{other.id}/best", data={"best": "1"})
    address = f"/api/v1/checkpoints/{run.checkpoint_id}"
    assert client.get(address).json["best_run_id"] == other.id
    assert client.get("/api/v1/checkpoints").json["items"][0]["best_run_id"] == other.id
    shown = "Best so far: better , 4.00 kB, Accuracy 95.00 %"
    assert shown in words(client, f"/checkpoints/{run.checkpoint_id}")
    assert "best so far: better , 4.00 kB" in words(client, "/checkpoints")
    assert "The best of digits.safetensors so far" in words(client, f"/runs/{other.id}")
    assert client.patch(address, json={"best_run_id": run.id}).json["best_run_id"] == run.id
    assert client.patch(address, json={"best_run_id": None}).json["best_run_id"] is None
    client.patch(address, json={"best_run_id": other.id})
    client.post(f"/runs/{other.id}/best")
    assert client.get(address).json["best_run_id"] is None


def test_a_best_run_that_is_deleted_is_it_no_more(client, run):
    address = f"/api/v1/checkpoints/{run.checkpoint_id}"
    client.patch(address, json={"best_run_id": run.id})
    assert client.delete(f"/api/v1/runs/{run.id}").status_code == 204
    assert client.get(address).json["best_run_id"] is None


def test_only_a_run_of_the_checkpoint_that_succeeded_is_its_best(client, session, seed, run):
    stranger = seed(name="of another", checkpoint=seed_checkpoint(session, "other.safetensors"))
    address = f"/api/v1/checkpoints/{run.checkpoint_id}"
    refused = client.patch(address, json={"best_run_id": stranger.id})
    assert refused.status_code == 409
    assert "is of another checkpoint, other.safetensors" in refused.json["error"]["message"]
    run.state = RunState.FAILED
    session.commit()
    assert (
        "the best so far has succeeded" in client.patch(address, json={"best_run_id": run.id}).json["error"]["message"]
    )
    assert client.patch(address, json={"best_run_id": "nothinghere2"}).status_code == 404


@pytest.mark.parametrize(
    ("name", "other", "alike"),
    [
        ("digits_cnn.safetensors", "Digits-CNN_v2.epoch10.pt", True),
        ("checkpoint-1000", "checkpoint-2000", True),
        ("model_best.pt", "model_last.pt", True),
        ("llama.gguf", "mistral.gguf", False),
        ("digits_cnn.pt", "digits_mlp.pt", False),
    ],
)
def test_names_of_versions_are_alike_but_for_what_counts_them(name, other, alike):
    assert (name_without_version(name) == name_without_version(other)) == alike


def test_a_version_is_suggested_where_name_and_tensors_agree(client, session):
    first, second = seed_checkpoint(session, "digits.safetensors"), seed_checkpoint(session, "digits_v2.safetensors")
    second.digest = "e" * 64
    session.commit()
    assert "It has the name and the tensors of digits.safetensors" in words(client, f"/checkpoints/{second.id}")
    assert suggested_version(session, first) is None
    client.post(f"/checkpoints/{second.id}/version", data={"newer_than_id": first.id})
    assert client.get(f"/api/v1/checkpoints/{second.id}").json["newer_than_id"] == first.id
    assert "It has the name" not in words(client, f"/checkpoints/{second.id}")
    third = seed_checkpoint(session, "digits_v3.safetensors")
    third.facts = {**third.facts, "tensors": third.facts["tensors"][:2]}
    session.commit()
    assert suggested_version(session, third) is None


def test_versions_are_a_row_without_a_circle(client, session):
    first, second, third = (seed_checkpoint(session, f"net_v{number}.safetensors") for number in (1, 2, 3))
    for newer, older in ((second, first), (third, second)):
        answer = client.patch(f"/api/v1/checkpoints/{newer.id}", json={"newer_than_id": older.id})
        assert answer.json["newer_than_id"] == older.id
    for each in (first, second, third):
        told = client.get(f"/api/v1/checkpoints/{each.id}/versions").json["items"]
        assert [row["id"] for row in told] == [first.id, second.id, third.id]
    for bad, older in ((first, third), (second, second)):
        refused = client.patch(f"/api/v1/checkpoints/{bad.id}", json={"newer_than_id": older.id})
        assert (refused.status_code, refused.json["error"]["field"]) == (409, "newer_than_id")
    assert client.patch(f"/api/v1/checkpoints/{first.id}", json={"newer_than_id": "nothinghere2"}).status_code == 404
    assert client.delete(f"/api/v1/checkpoints/{second.id}").status_code == 204
    assert client.get(f"/api/v1/checkpoints/{third.id}").json["newer_than_id"] == first.id
    assert told_in(client, first, third)


def told_in(client, first, third):
    page = Page(client.get(f"/checkpoints/{third.id}").text)
    return page.of("a", href=f"/checkpoints/{first.id}")


def test_a_version_is_said_at_upload(client, session):
    first = seed_checkpoint(session)
    given = {"data": b"bytes", "headers": {"Content-Type": "application/octet-stream"}}
    answer = client.put(f"/api/v1/checkpoints?name=next.safetensors&newer_than_id={first.id}", **given)
    assert (answer.status_code, answer.json["newer_than_id"]) == (201, first.id)
    refused = client.put("/api/v1/checkpoints?name=next.safetensors&newer_than_id=nothinghere2", **given)
    assert (refused.status_code, refused.json["error"]["field"]) == (404, "newer_than_id")
    page = Page(client.get(f"/checkpoints/new?newer_than={first.id}").text)
    assert "selected" in page.of("option", value=first.id)[0]


def test_recipes_are_applied_to_the_next_version(client, session, seed, run):
    newer = seed_checkpoint(session, "digits_v2.safetensors")
    newer.newer_than_id = run.checkpoint_id
    other = seed(name="another")
    study = Study(name="a question", kind="race", checkpoint_id=run.checkpoint_id, question={})
    session.add(study)
    session.flush()
    other.study_id = study.id
    session.commit()
    assert "Apply what was done to digits.safetensors" in words(client, f"/checkpoints/{newer.id}")
    answer = client.post(f"/checkpoints/{newer.id}/apply", data={"run": run.id})
    made = session.get(Run, answer.headers["Location"].rsplit("/", 1)[1])
    assert (made.checkpoint_id, made.forked_from_id, made.dataset_id) == (newer.id, run.id, run.dataset_id)
    assert made.recipe["steps"][0]["settings"] == {"sparsity": 0.5}
    answer = client.post(f"/api/v1/checkpoints/{newer.id}/runs", json={"run_ids": [run.id], "study_ids": [study.id]})
    assert answer.status_code == 202
    assert [row["forked_from_id"] for row in answer.json["items"]] == [run.id, other.id]
    fork = client.post(f"/api/v1/runs/{run.id}/fork", json={"checkpoint_id": newer.id}).json
    assert (fork["checkpoint_id"], fork["forked_from_id"]) == (newer.id, run.id)


def test_a_sweep_is_asked_again_of_the_next_version(client, session, run):
    steps = [{"technique": "magnitude_pruning", "settings": {"sparsity": [0.3, 0.5]}}]
    sweep = {"checkpoint_id": run.checkpoint_id, "dataset_id": run.dataset_id, "seed": 5}
    study = client.post("/api/v1/studies", json={"sweep": {**sweep, "recipe": {"version": 2, "steps": steps}}}).json
    more = {"version": 2, "steps": [{**steps[0], "settings": {"sparsity": [0.5, 0.7]}}]}
    client.post(f"/api/v1/studies/{study['id']}/extend", json={"recipe": more})
    newer = seed_checkpoint(session, "digits_v2.safetensors")
    newer.newer_than_id = run.checkpoint_id
    session.commit()
    assert "the sweep, asked again" in words(client, f"/checkpoints/{newer.id}")
    answer = client.post(f"/checkpoints/{newer.id}/apply", data={"study": study["id"]})
    again = session.get(Study, answer.headers["Location"].rsplit("/", 1)[1])
    assert (again.kind, again.checkpoint_id, again.id != study["id"]) == ("sweep", newer.id, True)
    found = [(made.recipe["steps"][0]["settings"]["sparsity"], made.seed, made.dataset_id) for made in again.runs]
    assert sorted(found) == [(sparsity, 5, run.dataset_id) for sparsity in (0.3, 0.5, 0.7)]


def test_what_cannot_be_applied_starts_nothing(client, session, seed, run):
    newer = seed_checkpoint(session, "digits_v2.safetensors")
    odd = seed(name="of a layer")
    layers = {"include": ["layers.7"], "exclude": []}
    odd.recipe = {"version": 2, "steps": [{"technique": "cast", "settings": {}, "layers": layers}]}
    session.commit()
    before = session.query(Run).count()
    refused = client.post(f"/api/v1/checkpoints/{newer.id}/runs", json={"run_ids": [run.id, odd.id]})
    assert refused.status_code == 422
    assert "of a layer cannot be applied to digits_v2.safetensors:" in refused.json["error"]["message"]
    assert session.query(Run).count() == before
    assert client.post(f"/api/v1/checkpoints/{newer.id}/runs", json={}).status_code == 400
    assert client.post(f"/api/v1/checkpoints/{newer.id}/runs", json={"run_ids": ["nothinghere2"]}).status_code == 404


def test_a_run_is_shown_beside_the_one_that_it_is_like(client, session, seed, run):
    other = seed_dataset(session, "lamps.npz")
    fork = seed(name="on lamps", size_bytes=4_500, metrics=metric(0.93))
    fork.forked_from_id, fork.training_dataset_id = run.id, other.id
    session.commit()
    text = words(client, f"/runs/{fork.id}")
    assert f"Like {run.name} , calibrated on lamps.npz in place of digits.npz" in text
    assert "Size 5.00 kB 4.50 kB -10.0 %" in text
    assert re.search(r"Accuracy 95\.00 % 95 % CI 9\S+ % to 9\S+ % 93\.00 % 95 % CI \S+ % to \S+ % -2\.00 points", text)
    assert Page(client.get(f"/runs/{fork.id}").text).of("a", href=f"/compare?run={run.id}&run={fork.id}")


def test_other_data_is_offered_where_a_step_learns_from_it(client, session, seed, run):
    other = seed_dataset(session, "lamps.npz")
    assert "Calibrate on other data" not in words(client, f"/runs/{run.id}")
    run.recipe = {"version": 2, "steps": [{"technique": "wanda", "version": 1, "settings": {"sparsity": 0.5}}]}
    session.commit()
    page = Page(client.get(f"/runs/{run.id}").text)
    assert page.of("option", value=other.id)
    assert not page.of("option", value=run.dataset_id)
    answer = client.post(f"/runs/{run.id}/recalibrate", data={"training_dataset": other.id})
    made = session.get(Run, answer.headers["Location"].rsplit("/", 1)[1])
    assert (made.forked_from_id, made.training_dataset_id, made.dataset_id) == (run.id, other.id, run.dataset_id)


def test_a_file_that_a_run_delivered_is_recognised_by_its_digest(client, session, files, run):
    given = {"data": CONTENT, "headers": {"Content-Type": "application/octet-stream"}}
    row = client.put("/api/v1/checkpoints?name=again.safetensors", **given).json
    assert row["delivered_by_id"] == run.id
    checkpoint = session.get(Checkpoint, row["id"])
    for state in (UploadState.INSPECTING, UploadState.REFUSED):
        checkpoint.state = state
        session.commit()
        page = Page(client.get(f"/checkpoints/{row['id']}").text)
        assert f"This is the file that {run.name} delivered." in " ".join(page.text.split())
        assert page.of("a", href=f"/runs/new?continue={run.id}")


def test_a_maker_that_is_deleted_is_forgotten_or_another_is_named(client, session, seed, run, tmp_path, files):
    given = {"data": io.BytesIO(CONTENT), "headers": {"Content-Type": "application/octet-stream"}}
    id_ = client.put("/api/v1/checkpoints?name=again.safetensors", **given).json["id"]
    twin = seed_run(session, files, tmp_path, run.checkpoint, run.dataset, name="twin")
    client.delete(f"/api/v1/runs/{run.id}")
    assert client.get(f"/api/v1/checkpoints/{id_}").json["delivered_by_id"] == twin.id
    client.delete(f"/api/v1/runs/{twin.id}")
    assert client.get(f"/api/v1/checkpoints/{id_}").json["delivered_by_id"] is None
