from tests.web.views.page import Page
from tests.web.views.seeded import seed_dataset


def test_a_dataset_shows_how_it_was_split(client, session):
    dataset = seed_dataset(session)
    text = Page(client.get(f"/datasets/{dataset.id}").text).text
    assert "540" in text
    assert "1,257" in text
    assert "70/30" in text


def test_a_dataset_that_evaluates_as_a_whole_says_so(client, session):
    dataset = seed_dataset(session)
    dataset.facts = dataset.facts | {"split": "all", "training": None}
    session.commit()
    assert "all of it evaluates" in Page(client.get(f"/datasets/{dataset.id}").text).text


def test_a_dataset_of_rows_shows_some_with_their_class(client, session):
    dataset = seed_dataset(session, shape=(20,))
    samples = [{"numbers": [0.5] * 20, "label": 7}, {"numbers": [1e-9] * 20}]
    dataset.facts = dataset.facts | {"samples": samples, "value_range": [1e-9, 0.5]}
    session.commit()
    text = " ".join(Page(client.get(f"/datasets/{dataset.id}").text).text.split())
    assert "values from 1e-09 to 0.5" in text
    assert f"{', '.join(['0.5'] * 16)}, … 7 {', '.join(['1e-09'] * 16)}, …" in text


def test_the_upload_offers_the_two_splits(client):
    page = Page(client.get("/datasets/new").text)
    assert [own["value"] for own in page.of("input", name="split")] == ["auto", "all"]


def test_a_dataset_with_runs_is_not_deleted(client, run):
    answer = client.post(f"/datasets/{run.dataset_id}/delete")
    assert answer.status_code == 409


def test_an_unknown_dataset_is_not_found(client):
    assert client.get("/datasets/nothinghere2").status_code == 404
