from tests.views.page import Page
from tests.views.seeded import seed_checkpoint, seed_dataset


def test_without_a_checkpoint_the_way_is_to_upload_one(client):
    page = Page(client.get("/").text)
    assert page.of("a", href="/checkpoints/new", class_="btn btn-primary btn-lg")


def test_a_sample_is_one_click_from_a_run(client, session):
    checkpoint, dataset = seed_checkpoint(session), seed_dataset(session)
    page = Page(client.get("/").text)
    assert "Try it with the sample" in page.text
    assert page.of("a", href=f"/runs/new?checkpoint={checkpoint.id}&dataset={dataset.id}")


def test_the_latest_runs_are_listed(client, run):
    assert run.name in Page(client.get("/").text).text
