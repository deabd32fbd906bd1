"""A folder is uploaded file by file, each as resumable as any upload; together they become one checkpoint."""

import pytest
from sqlalchemy import select

from tests.web.views.api_errors import error_of
from tests.web.views.test_api_uploads import begin, objects, part
from webapp.store.digests import forget_upload, named_digests
from webapp.store.models import Checkpoint, UploadState

LONG = "n" * 198 + ".bin"
FOLDER = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"0123456789", "1_Pooling/config.json": b"{}"}


def begun(client, name, content):
    return begin(client, len(content), f"/api/v1/files?name={name}")


def sent(client, name, content):
    upload = begun(client, name, content)
    answer = part(client, upload, 0, data=content)
    assert answer.json["digest"], answer.json
    return answer.json["id"]


@pytest.fixture
def uploads(client):
    return {name: sent(client, name, content) for name, content in FOLDER.items()}


def put_together(client, uploads, **more):
    return client.post("/api/v1/folders", json={"name": "llama", "files": uploads, **more})


def test_files_become_one_checkpoint(client, session, files, settings, uploads):
    answer = put_together(client, uploads, dequantize=True, task="embedding")
    assert answer.status_code == 201, answer.text
    row = session.get(Checkpoint, answer.json["id"])
    assert (row.name, row.state, row.size_bytes) == ("llama", UploadState.INSPECTING, sum(map(len, FOLDER.values())))
    assert (row.dequantize, row.task, len(row.digest)) == (True, "embedding", 64)
    kept = {name: files.open(entry["digest"]).read() for name, entry in row.source["files"].items()}
    assert kept == FOLDER
    assert {entry["digest"] for entry in row.source["files"].values()} <= named_digests(session)
    assert list((settings.work / "uploads").iterdir()) == []
    again = put_together(client, {name: sent(client, name, content) for name, content in FOLDER.items()})
    assert again.json["digest"] == row.digest
    assert "Reading" not in client.get(f"/checkpoints/{row.id}").text


def test_a_gguf_and_its_importance_matrix_are_one_checkpoint_too(client, session):
    parts = {name: sent(client, name, b"GGUF") for name in ("tiny-Q8_0.gguf", "tiny.imatrix")}
    answer = put_together(client, parts)
    assert answer.status_code == 201, answer.text
    assert set(session.get(Checkpoint, answer.json["id"]).source["files"]) == set(parts)
    for others in (("a.gguf", "b.gguf"), ("imatrix.gguf",)):
        refused = put_together(client, {name: sent(client, name, b"GGUF") for name in others})
        assert "There is no config.json among the files" in error_of(refused, 400)["message"]


def test_a_file_goes_on_where_it_broke_off(client):
    upload = begun(client, "model.safetensors", b"0123456789")
    first = part(client, upload, 0, data=b"0123").json
    assert (first["offset_bytes"], first["digest"], first["checkpoint_id"]) == (4, None, None)
    told = put_together(client, {"config.json": sent(client, "config.json", b"{}"), "model.safetensors": first["id"]})
    assert "model.safetensors is not whole yet" in error_of(told, 409)["message"]
    whole = part(client, upload, 4, data=b"456789")
    assert whole.headers["Upload-Complete"] == "?1"
    assert client.get(upload).json == whole.json, "for who missed the answer"


def test_an_answer_that_was_lost_is_given_again(client, uploads):
    key = {"Idempotency-Key": "k"}
    answers = [client.post("/api/v1/folders", json={"name": "a", "files": uploads}, headers=key) for _ in range(2)]
    assert answers[0].json == answers[1].json
    assert len(client.get("/api/v1/checkpoints").json["items"]) == 1


@pytest.mark.parametrize(
    "name",
    [
        "../config.json",
        "/config.json",
        "a/config.json",
        "config.json/",
        "a\\b.json",
        "evil.py",
        "x\n.json",
        "n" * 198 + ".bin",
        "",
    ],
)
def test_a_name_that_is_no_file_of_a_folder_is_refused(client, uploads, name):
    told = client.post("/api/v1/files", query_string={"name": name}, headers={"Upload-Length": "1"})
    assert error_of(told, 400)["field"] == "name"
    told = put_together(client, {**uploads, name: uploads["config.json"]})
    assert error_of(told, 400)["field"] == "name"


def test_what_is_no_folder_yet_is_refused_with_a_sentence(client, session, files, settings, uploads):
    without = {name: id for name, id in uploads.items() if name != "config.json"}
    assert "no config.json" in error_of(put_together(client, without), 400)["message"]
    assert error_of(put_together(client, {**uploads, "vocab.txt": "222222222222"}), 404)["code"] == "not_found"
    single = begin(client, 5)
    told = put_together(client, {**uploads, "vocab.txt": single.rpartition("/")[2]})
    assert "not whole" in error_of(told, 409)["message"]
    assert error_of(put_together(client, uploads, task="cook"), 422)
    assert error_of(put_together(client, {}), 422)
    object.__setattr__(settings, "max_upload_bytes", 20)
    assert error_of(put_together(client, uploads), 413)["code"] == "upload_too_large"
    assert session.scalars(select(Checkpoint)).all() == []
    files.delete(client.get(f"/api/v1/uploads/{uploads['config.json']}").json["digest"])
    object.__setattr__(settings, "max_upload_bytes", 20000)
    assert "is not kept any more" in error_of(put_together(client, uploads), 409)["message"]


def test_what_was_refused_is_not_kept(client, session, files, uploads):
    row = session.get(Checkpoint, put_together(client, uploads).json["id"])
    row.state = UploadState.REFUSED
    session.commit()
    forget_upload(session, files, row)
    assert objects(files) == []


def test_the_page_takes_folders(client):
    page = client.get("/checkpoints/new").text
    assert " multiple " in page
    assert "data-folder" in page
    assert "data-folder" not in client.get("/datasets/new").text
