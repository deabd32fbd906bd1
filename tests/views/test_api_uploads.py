"""Uploads through the API: kept whole under their digest, or not at all."""

import errno
import io
from typing import Any

import pytest

from tests.views.api_errors import error_of
from webapp.store.models import Checkpoint, Dataset


def objects(files):
    return [path for path in files._folder.rglob("*") if path.is_file()]


def test_an_upload_is_kept_under_its_digest(client, session, files):
    answer = client.put("/api/v1/checkpoints?name=folder/model.safetensors", data=b"weights")
    assert answer.status_code == 201
    assert answer.json["state"] == "inspecting"
    assert answer.json["name"] == "model.safetensors"
    assert answer.json["size_bytes"] == 7
    row = session.get(Checkpoint, answer.json["id"])
    assert files.open(row.digest).read() == b"weights"
    assert client.get(f"/api/v1/checkpoints/{row.id}").json == answer.json


def test_a_dataset_says_how_it_is_split(client, session):
    answer = client.put("/api/v1/datasets?name=digits.npz&split=all", data=b"arrays")
    assert answer.json["split"] == "all"
    assert session.get(Dataset, answer.json["id"]).split == "all"
    assert error_of(client.put("/api/v1/datasets?name=a.npz&split=half", data=b"x"), 400)["field"] == "split"


@pytest.mark.parametrize(("query", "asked"), [("", False), ("&dequantize=1", True), ("&dequantize=0", False)])
def test_a_quantized_checkpoint_is_dequantized_only_on_request(client, session, query, asked):
    answer = client.put(f"/api/v1/checkpoints?name=model.zip{query}", data=b"weights")
    assert answer.status_code == 201
    assert session.get(Checkpoint, answer.json["id"]).dequantize is asked


@pytest.mark.parametrize("noun", ["checkpoints", "datasets"])
@pytest.mark.parametrize(
    ("query", "body", "status", "code"),
    [
        ("", b"x", 400, "request_invalid"),
        ("?name=", b"x", 400, "request_invalid"),
        (f"?name={'n' * 201}", b"x", 400, "request_invalid"),
        ("?name=a&colour=red", b"x", 400, "request_invalid"),
        ("?name=a.npz", b"", 400, "upload_empty"),
        ("?name=a.npz", b"x" * 1_000_001, 413, "upload_too_large"),
    ],
)
def test_an_upload_that_is_refused_leaves_nothing(client, session, files, noun, query, body, status, code):
    assert error_of(client.put(f"/api/v1/{noun}{query}", data=body), status)["code"] == code
    assert objects(files) == []
    assert client.get(f"/api/v1/{noun}").json["items"] == []


class Broken(io.BytesIO):
    """A client that goes away after the first bytes."""

    def readinto(self, buffer: Any) -> int:
        if self.tell() >= 10:
            raise OSError(errno.ECONNRESET, "Connection reset by peer")
        return super().readinto(memoryview(buffer)[:10])


def test_a_client_that_breaks_off_leaves_nothing(app, client, files):
    app.testing = False  # as in production: the error is answered
    answer = client.put("/api/v1/checkpoints?name=a.pt", input_stream=Broken(b"x" * 100))
    assert answer.status_code >= 400
    assert objects(files) == []
    assert client.get("/api/v1/checkpoints").json["items"] == []


def test_an_early_end_is_not_a_shorter_file(client, files):
    environ = {"wsgi.input_terminated": True, "CONTENT_LENGTH": "100"}  # as gunicorn says
    answer = client.put(
        "/api/v1/checkpoints?name=a.pt",
        input_stream=io.BytesIO(b"x" * 40),
        environ_overrides=environ,
    )
    error_of(answer, 400)
    assert objects(files) == []


def test_a_full_disk_is_said(client, files, monkeypatch):
    monkeypatch.setattr(files, "_min_free_bytes", 10**18)
    assert error_of(client.put("/api/v1/checkpoints?name=a.pt", data=b"x"), 507)["code"] == "disk_full"
    assert objects(files) == []


def test_a_form_is_not_taken_for_the_file(client):
    error_of(client.put("/api/v1/checkpoints?name=a.pt", data={"file": (io.BytesIO(b"x"), "a.pt")}), 415)


@pytest.mark.parametrize("noun", ["checkpoints", "datasets"])
def test_a_part_is_not_taken_for_the_file(client, files, noun):
    part = {"Content-Range": "bytes 0-4/10"}
    assert (
        "Content-Range"
        in error_of(client.put(f"/api/v1/{noun}?name=a.pt", data=b"parts", headers=part), 400)["message"]
    )
    assert objects(files) == []
