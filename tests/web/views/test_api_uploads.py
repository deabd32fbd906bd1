"""Uploads through the API: kept whole under their digest, or not at all."""

import errno
import io
from typing import Any
from unittest.mock import Mock

import pytest

from tests.web.views.api_errors import error_of
from webapp.actions.uploads import begin as begin_draft
from webapp.actions.uploads import held
from webapp.store.errors import StoreFull
from webapp.store.models import Checkpoint, Dataset
from webapp.store.space import UPLOADS, remove_idle_folders


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


def begin(client, size_bytes, address="/api/v1/checkpoints?name=model.safetensors"):
    as_gunicorn = {"wsgi.input_terminated": True}  # which does not say that there is no body
    answer = client.post(address, headers={"Upload-Length": str(size_bytes)}, environ_overrides=as_gunicorn)
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"]


def part(client, upload, offset, **body):
    return client.patch(upload, headers={"Upload-Offset": str(offset)}, **body)


@pytest.mark.parametrize(("noun", "id"), [("checkpoints", "checkpoint_id"), ("datasets", "dataset_id")])
def test_an_upload_in_parts_is_what_the_whole_would_have_been(client, files, noun, id):
    upload = begin(client, 10, f"/api/v1/{noun}?name=folder/a.npz")
    first = part(client, upload, 0, data=b"01234")
    assert (first.json["offset_bytes"], first.json[id]) == (5, None)
    asked = client.head(upload).headers
    assert (asked["Upload-Offset"], asked["Upload-Length"], asked["Upload-Complete"]) == ("5", "10", "?0")
    whole = part(client, upload, 5, data=b"56789")
    assert whole.headers["Upload-Complete"] == "?1"
    row = client.get(f"/api/v1/{noun}/{whole.json[id]}").json
    assert (row["name"], row["size_bytes"], row["state"]) == ("a.npz", 10, "inspecting")
    assert [path.read_bytes() for path in objects(files)] == [b"0123456789"]
    assert client.get(upload).json == whole.json  # for who missed the answer
    assert part(client, upload, 10).json == whole.json
    assert len(client.get(f"/api/v1/{noun}").json["items"]) == 1


def test_what_came_before_the_client_went_is_kept(app, client):
    app.testing = False
    upload = begin(client, 100)
    assert part(client, upload, 0, input_stream=Broken(b"x" * 100)).status_code >= 400
    offset = client.get(upload).json["offset_bytes"]
    assert offset == 10
    assert part(client, upload, offset, data=b"x" * 90).json["checkpoint_id"]


def test_a_part_goes_where_the_last_one_ended_and_nowhere_else(client):
    upload = begin(client, 10)
    part(client, upload, 0, data=b"0123")
    for offset in (0, 5):
        answer = part(client, upload, offset, data=b"45")
        assert "byte 4" in error_of(answer, 409)["message"]
        assert answer.headers["Upload-Offset"] == "4"
    error_of(part(client, upload, 4, data=b"4567890"), 400)
    chunked = {"input_stream": io.BytesIO(b"4567890"), "environ_overrides": {"wsgi.input_terminated": True}}
    error_of(part(client, upload, 4, **chunked), 400)
    error_of(part(client, upload, 4, data={"file": (io.BytesIO(b"x"), "a.pt")}), 415)
    error_of(client.patch(upload, data=b"4"), 400)
    assert client.get(upload).json["offset_bytes"] == 4


def test_one_writer_at_a_time(client, settings):
    upload = begin(client, 10)
    with held(settings, upload.rsplit("/", 1)[1]):
        answer = part(client, upload, 0, data=b"0123")
        assert error_of(answer, 503)["code"] == "busy"
    assert part(client, upload, 0, data=b"0123").json["offset_bytes"] == 4


@pytest.mark.parametrize(
    ("query", "size_bytes", "status"),
    [("?name=a.pt", 0, 400), ("?name=a.pt", 1_000_001, 413), ("?name=", 5, 400), ("?name=a.pt&task=cook", 5, 422)],
)
def test_what_would_be_refused_whole_is_refused_before_its_first_part(client, settings, query, size_bytes, status):
    error_of(client.post(f"/api/v1/checkpoints{query}", headers={"Upload-Length": str(size_bytes)}), status)
    error_of(client.post("/api/v1/checkpoints?name=a.pt"), 400)
    error_of(client.post("/api/v1/checkpoints?name=a.pt", headers={"Upload-Length": "5"}, data=b"01234"), 400)
    assert not list((settings.work / "uploads").glob("*"))


def test_parts_meet_a_full_disk_as_the_whole_does(client, settings, files, monkeypatch):
    with pytest.raises(StoreFull):
        begin_draft(settings.model_copy(update={"min_free_bytes": 10**18}), "checkpoints", {"name": "a.pt"}, 10)
    assert not list((settings.work / "uploads").glob("*"))
    upload = begin(client, 10)
    with held(settings, upload.rsplit("/", 1)[1]) as draft, pytest.raises(StoreFull):
        draft.append(io.BytesIO(b"01234"), 5, 10**18)
    monkeypatch.setattr(files, "put", Mock(side_effect=StoreFull("The disk is full.")))
    error_of(part(client, upload, 0, data=b"0123456789"), 507)
    monkeypatch.undo()
    assert part(client, upload, 10).json["checkpoint_id"]  # what came was kept


def test_an_upload_is_given_up_by_its_client_or_by_time(client, settings):
    upload = begin(client, 10)
    assert client.delete(upload).status_code == 204
    error_of(part(client, upload, 0, data=b"x"), 404)
    upload = begin(client, 10)
    remove_idle_folders(settings.work / UPLOADS, 60.0)
    assert client.get(upload).status_code == 200
    remove_idle_folders(settings.work / UPLOADS, -1.0)
    error_of(client.get(upload), 404)


@pytest.mark.parametrize("id", ["..", "%2e%2e", "..%2f..%2fsecret_key", "unknown"])
def test_an_upload_that_nobody_began_is_not_found(client, id):
    for method in (client.get, client.delete):
        assert method(f"/api/v1/uploads/{id}").status_code == 404
