from sqlalchemy import func, select

from tests.web.views.page import Page
from tests.web.views.seeded import seed_checkpoint, seed_dataset
from webapp.engine.data.inspect import READ
from webapp.engine.importers import importers
from webapp.samples import CHECKPOINT, DATASET
from webapp.store.models import Checkpoint, UploadState


def test_without_a_checkpoint_the_ways_are_the_tour_the_sample_and_an_upload(client):
    page = Page(client.get("/").text)
    assert page.of("form", action="/tour", method="post")
    assert page.of("form", action="/sample", method="post")
    assert page.of("a", href="/checkpoints/new", class_="btn btn-outline btn-lg")


def test_the_sample_is_added_once(client, session):
    assert client.post("/sample").location == "/"
    assert f"The sample is being read: {CHECKPOINT.name}, {DATASET.name}" in Page(client.get("/").text).text
    client.post("/sample")
    assert "The sample is here already." in Page(client.get("/").text).text
    assert session.scalar(select(func.count(Checkpoint.id))) == 1


def test_a_sample_is_one_click_from_being_fitted(client, session):
    checkpoint, _ = seed_checkpoint(session), seed_dataset(session)
    page = Page(client.get("/").text)
    assert "Try it with the sample" in page.text
    assert page.of("a", href=f"/checkpoints/{checkpoint.id}/fit")


def test_whoever_has_runs_is_one_click_from_the_next(client, run):
    page = Page(client.get("/").text)
    assert page.of("a", href=f"/runs/new?checkpoint={run.checkpoint_id}&dataset={run.dataset_id}")


def test_every_format_is_named_on_the_first_page_and_where_files_are_chosen(client):
    home, upload = client.get("/").text, client.get("/checkpoints/new").text
    for one in (format_.accepts for format_ in importers().values()):
        assert one.title in upload
        assert one.sentence in Page(upload).text
        assert all(suffix in home for suffix in one.suffixes)
    checkpoints, beside = [f.accepts for f in importers().values()], {".json", ".txt", ".jinja"}  # of a folder
    for address, declared, more in (("/checkpoints/new", checkpoints, beside), ("/datasets/new", READ, set())):
        (chosen,) = Page(client.get(address).text).of("input", type="file")
        assert set(chosen["accept"].split(",")) == {suffix for one in declared for suffix in one.suffixes} | more


def test_a_fresh_instance_says_that_the_sample_is_being_read(client, session):
    checkpoint = seed_checkpoint(session, CHECKPOINT.name)
    dataset = seed_dataset(session, DATASET.name)
    checkpoint.state = dataset.state = UploadState.INSPECTING
    session.commit()
    text = Page(client.get("/").text).text
    assert f"The sample is being read: {CHECKPOINT.name}, {DATASET.name}" in text
    assert "Try it with the sample" not in text
    assert f"{CHECKPOINT.name} is being read" in Page(client.get("/runs/new").text).text
    checkpoint.state = dataset.state = UploadState.READY
    session.commit()
    text = Page(client.get("/").text).text
    assert "being read" not in text
    assert "Try it with the sample" in text
    seed_checkpoint(session, "mine.zip").state = UploadState.INSPECTING  # what else is uploaded does not hide it
    session.commit()
    assert "Try it with the sample" in Page(client.get("/").text).text


def test_the_latest_runs_are_listed(client, run):
    assert run.name in Page(client.get("/").text).text
