"""The page that fits a checkpoint to a budget: data, profile, goal, and the recipe that comes of it."""

import json

import pytest

from tests.web.views.page import Page
from tests.web.views.seeded import seed_checkpoint, seed_dataset
from tests.web.views.seeded_profile import llama, seed_profile
from webapp.actions.budgets import solved_on
from webapp.engine.profiles.budget import ANYTHING
from webapp.store.models import Profile, Run, RunState, Study
from webapp.web.views import fit


@pytest.fixture
def dataset(session):
    return seed_dataset(session, shape=(1, 8, 8))


@pytest.fixture
def profile(session, dataset):
    return seed_profile(session, dataset=dataset)


def address(profile):
    return f"/checkpoints/{profile.checkpoint_id}/fit"


def data_of(answer):
    text = answer.text.partition('id="fit-data">')[2].partition("</script>")[0]
    return json.loads(text)


def sent(profile, **more):
    return {"profile": profile.id, "families": ["Quantization", "Pruning", "Low rank"], "size": "100"} | more


def test_a_checkpoint_offers_to_be_fitted_first(client, session):
    checkpoint = seed_checkpoint(session)
    page = Page(client.get(f"/checkpoints/{checkpoint.id}").text)
    assert page.of("a", href=f"/checkpoints/{checkpoint.id}/fit", _class="btn btn-primary")


def test_without_data_it_asks_for_some(client, session):
    checkpoint = seed_checkpoint(session)
    page = Page(client.get(f"/checkpoints/{checkpoint.id}/fit").text)
    assert "inputs alone are enough" in page.text
    assert page.of("a", href="/datasets/new")


def test_weights_only_says_why_and_offers_the_builder(client, session, dataset):
    checkpoint = seed_checkpoint(session)
    sentence = "Its tensors are those of no architecture that is known."
    checkpoint.facts = checkpoint.facts | {"architecture": None, "weights_only_because": sentence}
    session.commit()
    page = Page(client.get(f"/checkpoints/{checkpoint.id}/fit").text)
    assert sentence in page.text
    assert page.of("a", href=f"/runs/new?checkpoint={checkpoint.id}")
    assert not page.of("select", name="dataset")


def test_data_that_does_not_fit_cannot_be_chosen(client, session):
    checkpoint, dataset = seed_checkpoint(session), seed_dataset(session, shape=(7,))
    page = Page(client.get(f"/checkpoints/{checkpoint.id}/fit").text)
    (option,) = page.of("option", value=dataset.id)
    assert "disabled" in option
    assert option["title"]


def test_a_profile_is_asked_for_once(client, session, monkeypatch):
    checkpoint, dataset = seed_checkpoint(session), seed_dataset(session)
    first = client.post(f"/checkpoints/{checkpoint.id}/fit/profiles", data={"dataset": dataset.id})
    assert first.status_code == 302
    (row,) = session.query(Profile).all()
    assert first.location == f"/checkpoints/{checkpoint.id}/fit?profile={row.id}"
    assert (row.checkpoint_id, row.dataset_id, row.state) == (checkpoint.id, dataset.id, RunState.QUEUED)
    again = client.post(f"/checkpoints/{checkpoint.id}/fit/profiles", data={"dataset": dataset.id})
    assert again.location == first.location


def test_a_profile_that_cannot_be_made_is_told_in_place(client, session):
    checkpoint, dataset = seed_checkpoint(session), seed_dataset(session, shape=(7,))
    answer = client.post(f"/checkpoints/{checkpoint.id}/fit/profiles", data={"dataset": dataset.id})
    assert answer.status_code == 422
    assert "The profile was not started." in Page(answer.text).text


def test_a_profile_under_way_is_watched_and_can_be_cancelled(client, session, dataset):
    profile = seed_profile(
        session, dataset=dataset, state=RunState.RUNNING, facts=None, progress=0.4, message="Block 3 of 30"
    )
    page = Page(client.get(address(profile)).text)
    assert "Block 3 of 30" in page.text
    assert page.of("section", data_profile=f"/api/v1/profiles/{profile.id}")
    assert page.of("form", action=f"{address(profile)}/profiles/{profile.id}/cancel")


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.CANCELLED])
def test_a_profile_that_ended_without_a_result_says_so_and_can_be_tried_again(client, session, dataset, state):
    error = {"code": "x", "message": "It took more than its memory."} if state is RunState.FAILED else None
    profile = seed_profile(session, dataset=dataset, state=state, facts=None, error=error)
    page = Page(client.get(address(profile)).text)
    assert (error["message"] if error else "was cancelled") in page.text
    assert page.of("form", action=f"{address(profile)}/profiles/{profile.id}/retry")


@pytest.mark.parametrize(("points", "unit", "said"), [(10.0, "points", "half a point"), (None, "loss", "0.05 nats")])
def test_the_page_begins_with_the_smallest_file_that_loses_little(client, session, profile, points, unit, said):
    measured = [{**each, "points": points and points * each["loss"]} for each in profile.facts["measured"]]
    profile.facts = profile.facts | {"measured": measured}
    session.commit()
    answer = client.get(address(profile))
    assert f"the smallest file that is expected to lose at most {said}." in Page(answer.text).text
    found, most = data_of(answer)["answer"], 0.5 if unit == "points" else 0.05
    assert 0 < found["expected"][unit]["value"] <= most
    size = 1000 * float(Page(answer.text).of("input", id="size")[0]["value"])  # what is typed there has room for it
    assert found["size_bytes"] <= size < 1.001 * found["size_bytes"]
    smaller = data_of(client.post(address(profile), data=sent(profile, size=f"{0.9 * size / 1000}")))["answer"]
    assert smaller["expected"][unit]["value"] > most
    same = data_of(client.post(address(profile), data=sent(profile, size=f"{size / 1000}")))["answer"]
    assert same["expected"][unit]["value"] == pytest.approx(found["expected"][unit]["value"], rel=0.05)


def test_a_budget_is_shown_with_every_layer(client, profile):
    answer = client.get(address(profile))
    assert answer.status_code == 200
    page, data = Page(answer.text), data_of(answer)
    assert [layer["name"] for layer in data["layers"]] == [
        "features.conv1",
        "features.conv2",
        "classifier.fc1",
        "classifier.fc2",
        "vectors",
    ]
    shown = data["answer"]
    assert data["least_bytes"] < shown["size_bytes"] < data["original_bytes"]
    assert [place["data-layer"] for place in page.of("td", _class="place")] == ["0", "1", "2", "3", "4"]
    assert page.of("table", role="grid", id="map")
    assert f"· {shown['layers'][2]['label']}" in page.text
    for chosen, layer in zip(shown["layers"], data["layers"], strict=True):
        label, size, _ = layer["options"][chosen["option"]]
        assert (chosen["label"], chosen["bytes"]) == (label, size)
    assert page.of("script", id="figure-front")
    assert page.of("script", id="figure-held")
    assert "No sample reached" not in page.text
    assert page.text.count("The chart is drawn with JavaScript; the table has the same figures.") == 2


def test_layers_that_leave_with_their_block_are_told_by_name(client, session, dataset, monkeypatch):
    def without_a_block(solver, goal, limits=ANYTHING):
        found = solved_on(solver, goal, limits)
        kept = tuple(layer for layer in found.layers if not layer.name.startswith("model.layers.1."))
        return found.model_copy(update={"layers": kept})

    monkeypatch.setattr(fit, "solved_on", without_a_block)
    answer = client.get(address(seed_profile(session, llama(3), dataset)))
    page, layers = Page(answer.text), data_of(answer)["answer"]["layers"]
    told = {place["aria-label"].partition(": ")[0]: place["aria-label"] for place in page.of("td", _class="place")}
    assert {name for name, label in told.items() if label.endswith(": cut out")} == {
        name for name in told if name.startswith("model.layers.1.")
    }
    for layer in layers:
        assert told[layer["name"]] == f"{layer['name']}: {layer['label']}"


def test_a_layer_that_no_sample_reached_is_said_to_be_shrunk_first(client, session, profile):
    layers = [{**layer, "options": [*layer["options"]]} for layer in profile.facts["layers"]]
    layers[2]["options"] = [{**option, "loss": 0.0} for option in layers[2]["options"]]
    profile.facts = profile.facts | {"layers": layers}
    session.commit()
    page = Page(client.get(address(profile)).text)
    assert "No sample reached classifier.fc1: whatever is done there costs nothing on this data" in page.text
    assert [place["data-layer"] for place in page.of("td", data_unreached="")] == ["2"]
    assert page.text.count("not reached") == 1


def test_the_profile_that_saw_most_samples_is_opened_and_another_can_be_chosen(client, session, dataset, profile):
    def another(samples, **more):
        facts = profile.facts | {"samples": samples}
        row = {"checkpoint_id": profile.checkpoint_id, "state": RunState.SUCCEEDED, "facts": facts} | more
        session.add(made := Profile(key="k" * 64, dataset_id=dataset.id, **row))
        session.commit()
        return made

    def opened():
        return Page(client.get(address(profile)).text)

    seen = profile.facts["samples"]
    assert "one of" not in opened().text
    another(seen - 1)
    assert opened().of("input", name="profile")[0]["value"] == profile.id
    assert f"on {seen} samples" in opened().text
    assert "one of 2 profiles" in opened().text
    equal, failed = another(seen), another(0, state=RunState.FAILED, facts=None)
    assert opened().of("input", name="profile")[0]["value"] == equal.id
    choice = Page(client.get(f"{address(profile)}?new=1").text)
    assert [f"{seen - 1}" in choice.text, f"{seen}" in choice.text] == [True, True]
    for row in (profile, equal, failed):
        assert choice.of("a", href=f"{address(profile)}?profile={row.id}")


def test_another_dataset_can_calibrate(client, session):
    checkpoint, dataset = seed_checkpoint(session), seed_dataset(session)
    other, unfit = seed_dataset(session, "more.npz"), seed_dataset(session, "wide.npz", shape=(7,))
    dataset.facts = dataset.facts | {"training": None}
    session.commit()
    page = Page(client.get(f"/checkpoints/{checkpoint.id}/fit").text)
    offered = {option["value"] for option in page.of("option")}
    assert "disabled" not in page.of("option", value=dataset.id)[0]  # others calibrate for it
    assert "disabled" in page.of("option", value=unfit.id)[0]
    assert offered == {"", dataset.id, other.id, unfit.id}
    assert len(page.of("option", value=other.id)) == 2
    address = f"/checkpoints/{checkpoint.id}/fit/profiles"
    alone = client.post(address, data={"dataset": dataset.id, "training_dataset": ""})
    assert "or a second dataset to calibrate on" in Page(alone.text).text
    made = client.post(address, data={"dataset": dataset.id, "training_dataset": other.id})
    assert made.status_code == 302
    (row,) = session.query(Profile).all()
    assert (row.dataset_id, row.training_dataset_id) == (dataset.id, other.id)


def test_blocks_are_rows_and_matrices_columns(client, session, dataset):
    page = Page(client.get(address(seed_profile(session, llama(4, 32), dataset))).text)
    assert [head["title"] for head in page.of("th", scope="col") if "title" in head] == [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ]
    rows = [head["title"] for head in page.of("th", scope="row")]
    assert rows == ["model.embed_tokens", *(f"model.layers.{n}" for n in range(4)), "vectors"]
    assert len(page.of("td", _class="place")) == 4 * 7 + 2


def test_without_scripts_a_size_is_shown_and_kept(client, profile):
    answer = client.post(address(profile), data=sent(profile, size="100"))
    assert answer.status_code == 200
    assert data_of(answer)["answer"]["size_bytes"] <= 100_000
    assert Page(answer.text).of("input", id="size")[0]["value"] == "100"


@pytest.mark.parametrize("size", ["0", "-1", "1e308", "1e999", "60 MB"])
def test_a_size_that_is_none_is_told(client, profile, size):
    answer = client.post(address(profile), data=sent(profile, size=size))
    assert "hidden" not in Page(answer.text).of("div", id="budget-error")[0]
    assert Page(answer.text).of("input", id="size")[0]["value"] == size


def test_a_tolerance_gives_the_smallest_file_within_it(client, profile):
    found = data_of(client.post(address(profile), data=sent(profile, tolerance="0.01", tolerance_in="loss")))["answer"]
    assert 0 < found["expected"]["loss"]["value"] <= 0.01
    tighter = data_of(client.post(address(profile), data=sent(profile, tolerance="0.0001", tolerance_in="loss")))
    assert tighter["answer"]["size_bytes"] > found["size_bytes"]


def test_families_that_are_off_and_locks_are_held_to(client, profile):
    locks = {"classifier.fc1": 0}
    found = data_of(
        client.post(
            address(profile), data=sent(profile, size="550", families=["Quantization"], locks=json.dumps(locks))
        )
    )
    assert {layer["family"] for layer in found["answer"]["layers"]} <= {"Quantization", "Kept"}
    assert found["answer"]["layers"][2]["option"] == 0
    assert found["locks"] == locks


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"size": "1"}, "smallest file"),
        ({"size": "abc"}, "The size is to be a number, and not below 0: 'abc'."),
        ({"size": "nan"}, "The size is to be a number"),
        ({"size": "-3"}, "not below 0"),
        ({"size": "0"}, "greater than 0"),
        ({"tolerance": "x"}, "The loss is to be a number"),
        ({"exports": ["onnx"] * 9}, "At most 8"),
        ({"exports": ["nothing"]}, "nothing"),
        ({"locks": "{"}, "The locks are not a JSON object"),
        ({"locks": '{"nowhere": 1}'}, "nowhere"),
        ({"locks": '{"classifier.fc1": 99}'}, "99"),
    ],
)
def test_what_cannot_be_met_is_told_beside_a_budget_that_can(client, profile, asked, said):
    for path in (address(profile), f"{address(profile)}/run", f"{address(profile)}/recipe"):
        answer = client.post(path, data=sent(profile, **asked))
        page = Page(answer.text)
        assert page.of("div", id="budget-error")
        assert "hidden" not in page.of("div", id="budget-error")[0]
        assert said in page.text
        assert data_of(answer)["answer"]["size_bytes"] > 0


def test_a_budget_is_raced_against_uniform_recipes_of_its_bytes(client, session, profile):
    answer = client.post(f"{address(profile)}/run", data=sent(profile))
    assert answer.status_code == 302
    (study,) = session.query(Study).all()
    assert answer.location == f"/studies/{study.id}"
    assert study.kind == "race"
    budget, *others = study.runs
    assert others
    assert budget.expected["profile_id"] == profile.id
    assert budget.expected["size_bytes"] <= 100_000


def test_a_budget_beside_which_there_is_nothing_uniform_is_run_alone(client, session, profile):
    by_hand = sent(profile, size="650", families=[], locks='{"classifier.fc1": 3}')
    before, raced = (Page(client.post(address(profile), data=data).text) for data in (by_hand, sent(profile)))
    for page, alone in ((before, True), (raced, False)):
        assert ("hidden" in page.of("span", data_raced="")[0]) == alone
        assert ("hidden" in page.of("span", data_alone="")[0]) != alone
    answer = client.post(f"{address(profile)}/run", data=by_hand)
    (study,) = session.query(Study).all()
    assert answer.location == f"/studies/{study.id}"
    (run,) = study.runs
    assert run.expected["profile_id"] == profile.id
    assert "so the budget runs alone" in Page(client.get(answer.location).text).text


def test_what_is_as_large_as_the_original_is_not_run(client, session, profile):
    answer = client.post(f"{address(profile)}/run", data=sent(profile, size="9999"))
    assert answer.status_code == 422
    assert "nothing" in Page(answer.text).text
    assert not session.query(Run).all()


def test_a_model_of_which_nothing_can_be_made_smaller_has_its_page(client, session, dataset):
    profile = seed_profile(session, dataset=dataset)
    layers = [layer | {"options": layer["options"][:1]} for layer in profile.facts["layers"]]
    profile.facts = profile.facts | {"layers": layers, "measured": []}
    session.commit()
    data = data_of(client.get(address(profile)))
    assert data["answer"]["size_bytes"] <= data["original_bytes"]
    assert "Nothing was measured yet." in client.get(address(profile)).text


def test_the_recipe_opens_in_the_builder(client, profile):
    answer = client.post(f"{address(profile)}/recipe", data=sent(profile))
    assert answer.status_code == 200
    page = Page(answer.text)
    recipe = json.loads(page.of("input", id="recipe-json")[0]["value"])
    assert recipe["steps"]
    assert page.of("form", action="/runs/new")


def test_a_profile_of_another_checkpoint_is_not_taken(client, session, profile):
    other = seed_checkpoint(session)
    assert client.get(f"/checkpoints/{other.id}/fit?profile={profile.id}").status_code == 404
    assert client.post(f"/checkpoints/{other.id}/fit/run", data=sent(profile)).status_code == 404
    for asked in ("cancel", "retry"):
        assert client.post(f"/checkpoints/{other.id}/fit/profiles/{profile.id}/{asked}").status_code == 404


def test_other_data_can_be_chosen_and_earlier_profiles_are_listed(client, profile, dataset):
    page = Page(client.get(f"{address(profile)}?new=1").text)
    assert page.of("option", value=dataset.id)
    assert page.of("a", href=f"{address(profile)}?profile={profile.id}")
