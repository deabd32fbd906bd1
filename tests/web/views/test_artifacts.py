"""Downloads promise the very bytes that the digest names, whole or in part."""

import base64
import hashlib
import io
import zipfile
from urllib.parse import quote

import pytest
from gunicorn.http.wsgi import FileWrapper

from tests.web.views.api_errors import error_of
from tests.web.views.seeded import CONTENT
from webapp.actions.file_names import artifact_name, file_stem
from webapp.store.models import Artifact, Stage

DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def url(run):
    return f"/api/v1/runs/{run.id}/artifacts/model.safetensors"


def test_a_download_carries_its_digest(client, url):
    answer = client.get(url)
    assert answer.status_code == 200
    assert answer.data == CONTENT
    assert answer.headers["ETag"] == f'"{DIGEST}"'
    named = base64.b64encode(bytes.fromhex(DIGEST)).decode()
    assert answer.headers["Repr-Digest"] == answer.headers["Content-Digest"] == f"sha-256=:{named}:"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Disposition"] == "attachment; filename=Magnitude-pruning-50.safetensors"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.mimetype == "application/octet-stream"


@pytest.mark.parametrize(
    ("checkpoint", "name", "stem"),
    [
        ("digits_cnn.safetensors", "digits_cnn.safetensors: GPTQ 4", "digits_cnn-gptq4"),
        ("a.zip", "a.zip: Magnitude pruning 0.5, Weight quantization 8", "a-magnitude-pruning0.5-weight-quantization8"),
        ("SmolLM2-1.7B", "SmolLM2-1.7B: GPTQ 4", "SmolLM2-1.7B-gptq4"),
        ("a.pt", "Half of it", "Half-of-it"),
        ("a.pt", "../../etc/passwd", "etc-passwd"),
        ("a.pt", "数字 für alle", "数字-für-alle"),
        ("a.pt", "...", "model"),
    ],
)
def test_files_are_named_after_their_run(session, run, checkpoint, name, stem):
    run.checkpoint.name, run.name = checkpoint, name
    assert file_stem(run) == stem
    assert artifact_name(Artifact(run=run, name="model.onnx", format="onnx")) == f"{stem}.onnx"
    assert artifact_name(Artifact(run=run, name="config.json", format="companion")) == "config.json"
    assert artifact_name(Artifact(run=run, name="a\r\nb/c.json", format="companion")) == "a--b-c.json"
    session.rollback()


def test_the_page_has_the_same_file(client, run):
    assert client.get(f"/runs/{run.id}/artifacts/model.safetensors").data == CONTENT


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-99", 0, 100), ("bytes=10000-", 10000, None), ("bytes=-5", -5, None), ("bytes=100-999999", 100, None)],
)
def test_a_part_is_that_part(client, url, asked, start, end):
    answer = client.get(url, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.data == CONTENT[start:end]
    assert answer.content_length == len(answer.data)
    assert answer.headers["Content-Range"].endswith(f"/{len(CONTENT)}")
    assert "Content-Digest" not in answer.headers
    assert "Repr-Digest" in answer.headers


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "lines=1-2", "bytes=abc", "bytes=9-1"])
def test_a_range_that_is_not_understood_gives_the_whole_file(client, url, asked):
    answer = client.get(url, headers={"Range": asked})
    assert answer.status_code == 200
    assert answer.data == CONTENT


def test_a_range_beyond_the_end_says_how_long_the_file_is(client, url):
    answer = client.get(url, headers={"Range": f"bytes={len(CONTENT)}-"})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"
    assert answer.json["error"]["code"]


def test_a_file_that_is_not_the_one_asked_for_is_not_sent(client, url):
    assert client.get(url, headers={"If-Match": f'"{DIGEST}"'}).data == CONTENT
    answer = client.get(url, headers={"If-Match": '"another"'})
    assert answer.status_code == 412
    assert answer.json["error"]["code"] == "precondition_failed"


def test_a_weak_tag_asks_for_no_part(client, url):
    assert client.get(url, headers={"Range": "bytes=0-9", "If-Range": f'W/"{DIGEST}"'}).status_code == 200


def test_only_a_get_has_parts(client, url):
    answer = client.head(url, headers={"Range": "bytes=0-9"})
    assert (answer.status_code, answer.content_length) == (200, len(CONTENT))


def test_what_the_client_has_is_not_sent_again(client, url):
    answer = client.get(url, headers={"If-None-Match": f'"{DIGEST}"'})
    assert answer.status_code == 304
    assert answer.data == b""


@pytest.mark.parametrize(("tag", "status"), [(DIGEST, 206), ("0" * 64, 200)])
def test_a_part_of_another_version_is_never_mixed_in(client, url, tag, status):
    answer = client.get(url, headers={"Range": "bytes=0-9", "If-Range": f'"{tag}"'})
    assert answer.status_code == status


def test_head_tells_the_size_without_the_bytes(client, url):
    answer = client.head(url)
    assert answer.status_code == 200
    assert answer.content_length == len(CONTENT)
    assert answer.headers["ETag"] == f'"{DIGEST}"'
    assert answer.data == b""


def test_a_file_that_is_not_there_is_named_with_those_that_are(client, run):
    answer = client.get(f"/api/v1/runs/{run.id}/artifacts/other.bin")
    assert answer.status_code == 404
    assert "It has model.safetensors." in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ('a";\tX: 1.bin', 'attachment; filename="a---X- 1.bin"'),
        ("onnx/modèle.onnx", "attachment; filename=onnx-modele.onnx; filename*=UTF-8''onnx-mod%C3%A8le.onnx"),
        ("ж" * 200, "attachment; filename=\"\"; filename*=UTF-8''" + "%D0%B6" * 200),
    ],
)
def test_a_name_cannot_break_out_of_its_header(client, session, run, name, named):
    session.add(Artifact(run_id=run.id, name=name, format="companion", digest=DIGEST, size_bytes=len(CONTENT)))
    session.commit()
    answer = client.get(f"/api/v1/runs/{run.id}/artifacts/{quote(name)}")
    assert answer.headers["Content-Disposition"] == named


def test_a_part_is_read_without_what_comes_before_it(client, url, files, monkeypatch):
    read = []

    class Counted(io.BytesIO):
        def read(self, size=-1):
            read.append(super().read(size))
            return read[-1]

    monkeypatch.setattr(files, "open", lambda digest: Counted(CONTENT))
    part = client.get(url, headers={"Range": "bytes=-5"}, environ_overrides={"wsgi.file_wrapper": FileWrapper})
    assert part.data == b"".join(read) == CONTENT[-5:]


def test_a_package_is_streamed_and_is_the_run_s(client, session, files, run, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(1_000_000))
    size = (tmp_path / "model.gguf").stat().st_size
    digest = files.put(tmp_path / "model.gguf")
    session.add(Artifact(run_id=run.id, name="model.gguf", format="gguf", digest=digest, size_bytes=size))
    made = {"model.gguf": {"digest": digest, "size_bytes": size}}
    session.add(Stage(run_id=run.id, position=9, name="export-gguf", title="GGUF", key=digest, files=made))
    session.commit()
    address = f"/api/v1/runs/{run.id}/packages/llama-cpp"
    answer = client.get(address)
    assert answer.mimetype == "application/zip"
    assert answer.content_length is None
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.testzip() is None
        (model,) = (name for name in archive.namelist() if name.endswith("model.gguf"))
        assert archive.getinfo(model).file_size == size
    assert client.head(address).status_code == 200
    files.delete(digest)
    error_of(client.get(address), 500)
