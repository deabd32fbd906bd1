"""A disk without a free byte: what is there is still shown, what writes is refused with a sentence, and it heals."""

import pytest

from tests.small_disk import filled, small_disk
from tests.web.views.api_errors import error_of
from webapp.config import InstallationSettings
from webapp.store.models import RunState

RECIPE = {"version": 1, "steps": [{"technique": "cast"}]}


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def settings(disk):
    return InstallationSettings.load(disk / "instance", min_free_bytes=0)


def test_pages_are_shown_and_writes_are_refused_until_there_is_room(client, disk, run):
    asked = {"checkpoint_id": run.checkpoint_id, "recipe": RECIPE}
    writes = {
        "an upload": lambda: client.put("/api/v1/checkpoints?name=a.pt", data=b"x" * 9000),
        "a run": lambda: client.post("/api/v1/runs", json=asked),
        "a share link": lambda: client.post(f"/api/v1/runs/{run.id}/shares"),
    }
    with filled(disk):
        assert client.get("/healthz").json["space"].startswith("Only 0.0 MB are free")
        assert client.get("/healthz").status_code == 200
        for address in ("/", "/runs", f"/runs/{run.id}", "/api/v1/runs", f"/runs/{run.id}/receipt"):
            assert client.get(address).status_code == 200, address
        for name, write in writes.items():
            told = [write() for _ in range(60)][-1]  # small rows find room for a while in what the database has
            error = error_of(told, 507)
            assert error["code"] == "disk_full", name
            assert "make room" in error["message"]
        page = client.post(f"/runs/{run.id}/shares", headers={"Accept": "text/html"})
        assert page.status_code == 507
        assert "The disk is full" in page.text
    assert client.get("/healthz").json["status"] == "ok"
    assert client.put("/api/v1/checkpoints?name=a.pt", data=b"x" * 9000).status_code == 201
    found = client.post("/api/v1/runs", json=asked)
    assert found.status_code == 202, found.json
    assert found.json["state"] == RunState.QUEUED
