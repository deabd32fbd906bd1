"""An object is whole under its own hash, or it is not there; nothing that fails leaves anything behind."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import fsspec
import pytest

from tests.object_store import object_store
from tests.patience import PATIENCE_SECONDS
from webapp.store.errors import FileMissing, StoreFull, StoreUnreachable, UploadBroken, UploadTooLarge
from webapp.store.files import CHUNK_BYTES, FileStore, digest_of

CONTENT = os.urandom(3 * CHUNK_BYTES + 17)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def stored(files):
    """All that the store holds, drafts included."""
    return list(files._fs.find(files._root))


def made(tmp_path, name, content=CONTENT):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


class Broken(io.BytesIO):
    """A client that goes away after a while."""

    def read(self, size=-1):
        if self.tell() >= 2 * CHUNK_BYTES:
            raise ConnectionResetError("the client went away")
        return super().read(size)


def test_what_is_received_is_hashed_on_the_way_and_comes_back(files):
    assert files.receive(io.BytesIO(CONTENT), len(CONTENT), len(CONTENT)) == (DIGEST, len(CONTENT))
    assert files.exists(DIGEST)
    assert files.size(DIGEST) == len(CONTENT)
    assert files.path(DIGEST).read_bytes() == CONTENT
    with files.open(DIGEST) as file:
        file.seek(-17, os.SEEK_END)
        assert file.read() == CONTENT[-17:]


def test_the_same_content_is_kept_once_however_it_comes(files, tmp_path):
    path = made(tmp_path, "model.bin")
    assert files.put(path) == files.put(path) == files.receive(io.BytesIO(CONTENT), 10**9)[0] == DIGEST
    assert len(stored(files)) == 1
    assert path.exists()


def test_an_empty_file_is_a_file(files):
    digest, size_bytes = files.receive(io.BytesIO(b""), 10)
    assert (size_bytes, files.path(digest).read_bytes()) == (0, b"")


def test_a_folder_moves_in_and_comes_out_again_with_its_paths(files, tmp_path):
    made(tmp_path, "out/model.safetensors")
    made(tmp_path, "out/tokenizer/vocab.json", b"{}")
    kept = files.put_folder(tmp_path / "out")
    assert kept == {
        "model.safetensors": {"digest": DIGEST, "size_bytes": len(CONTENT)},
        "tokenizer/vocab.json": {"digest": hashlib.sha256(b"{}").hexdigest(), "size_bytes": 2},
    }
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    back = files.materialise(kept, tmp_path / "back")
    assert (back / "model.safetensors").read_bytes() == CONTENT
    assert (back / "tokenizer/vocab.json").read_bytes() == b"{}"
    shutil.rmtree(back)
    assert files.path(DIGEST).read_bytes() == CONTENT


def test_a_path_that_leads_out_of_the_folder_is_refused(files, tmp_path):
    digest = files.put(made(tmp_path, "x", b"x"))
    with pytest.raises(ValueError, match="outside"):
        files.materialise({"../escaped": {"digest": digest}}, tmp_path / "in")
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    ("stream", "limit", "expected", "error"),
    [
        (io.BytesIO(CONTENT), CHUNK_BYTES, None, UploadTooLarge),
        (io.BytesIO(CONTENT), CHUNK_BYTES, len(CONTENT), UploadTooLarge),
        (io.BytesIO(CONTENT), 10**9, len(CONTENT) + 1, UploadBroken),
        (Broken(CONTENT), 10**9, None, ConnectionResetError),
    ],
    ids=["too large", "announced too large", "ends early", "breaks off"],
)
def test_an_upload_that_fails_leaves_nothing_behind(files, stream, limit, expected, error):
    stream.seek(0)
    with pytest.raises(error):
        files.receive(stream, limit, expected)
    assert stored(files) == []


def test_a_missing_file_is_said(files, tmp_path):
    for ask in (files.open, files.size, files.path, files.modified):
        with pytest.raises(FileMissing, match="is not in the store"):
            ask("f" * 64)
    files.delete("f" * 64)  # not an error: it is gone, as wished


def test_deleting_is_final(files, tmp_path):
    files.put(made(tmp_path, "x", b"x"))
    digest = hashlib.sha256(b"x").hexdigest()
    files.delete(digest)
    assert not files.exists(digest)
    assert stored(files) == []


def test_a_sweep_takes_what_is_old_and_unnamed_and_nothing_else(files, tmp_path):
    named, unnamed = (files.put(made(tmp_path, name, name.encode())) for name in ("named", "unnamed"))
    with files._fs.open(f"{files._root}/drafts/leftover", "wb") as file:
        file.write(b"of a killed process")
    assert files.sweep({named}, older_than_seconds=3600) == 0
    assert files.sweep({named}, older_than_seconds=-1) == 2  # a remote store's clock may be a little apart
    assert (files.exists(named), files.exists(unnamed), len(stored(files))) == (True, False, 1)


def test_putting_again_makes_young_again(files, tmp_path):
    path = made(tmp_path, "x", b"x")
    first = datetime.now(UTC)
    digest = files.put(path)
    time.sleep(1.1 if "s3" in files._fs.protocol else 0.02)  # S3 tells whole seconds
    files.put(path)
    assert files.modified(digest) >= first + timedelta(seconds=0.01)


def test_a_remote_object_is_checked_when_it_is_fetched(tmp_path):
    files = FileStore("memory://damaged", cache=tmp_path / "cache")
    digest = files.put(made(tmp_path, "x", b"x"))
    with fsspec.filesystem("memory").open(files._at(digest), "wb") as file:
        file.write(b"y")
    with pytest.raises(FileMissing, match="damaged"):
        files.path(digest)
    assert list((tmp_path / "cache").iterdir()) == []


def test_objects_cannot_be_written_to_by_accident(tmp_path):
    files = FileStore(str(tmp_path / "files"))
    digest = files.put(made(tmp_path, "x", b"x"))
    assert files.path(digest).stat().st_mode & 0o222 == 0


def test_nothing_is_stored_that_would_fill_the_disk(tmp_path):
    free_bytes = shutil.disk_usage(tmp_path).free
    files = FileStore(str(tmp_path / "files"), min_free_bytes=free_bytes + 10**12)
    for keep in (
        lambda: files.receive(io.BytesIO(b"x"), 10),
        lambda: files.put(made(tmp_path, "x", b"x")),
    ):
        with pytest.raises(StoreFull, match=r"The disk is full: .* free") as full:
            keep()
        assert str(tmp_path) not in full.value.message
    assert stored(files) == []


FILL_A_SMALL_DISK = """
import io, os, subprocess, sys
folder = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
from webapp.store.errors import StoreFull
from webapp.store.files import FileStore
files = FileStore(folder)
try:
    files.receive(io.BytesIO(os.urandom(5_000_000)), 10**9)
except StoreFull as error:
    print(error.message)
print(files._fs.find(folder))
digest, _ = files.receive(io.BytesIO(b"small"), 10)
print(files.path(digest).read_bytes())
"""


def test_a_disk_that_fills_up_on_the_way_is_said_and_nothing_stays(tmp_path):
    unshare = ["unshare", "--mount", "--map-root-user", "true"]
    if not shutil.which("unshare") or subprocess.run(unshare, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here (unshare is missing or not permitted)")
    command = [*unshare[:-1], sys.executable, "-c", FILL_A_SMALL_DISK, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": "."})
    assert said.stdout.splitlines() == [
        "The disk is full: no space is left. Delete runs or make room, then try again.",
        "[]",
        "b'small'",
    ]


def test_the_digest_of_a_file_is_its_sha256(tmp_path):
    assert digest_of(made(tmp_path, "x")) == DIGEST


# An object store that several machines share


def test_what_others_store_and_sweep_is_seen_at_once(bucket, tmp_path):
    """A listing of the folder is not kept: it would hide what came since."""
    one, other = FileStore(bucket, cache=tmp_path / "one"), FileStore(bucket, cache=tmp_path / "other")
    assert other.sweep(set()) == 0  # which lists everything
    assert not other.exists(DIGEST)
    one.receive(io.BytesIO(CONTENT), len(CONTENT))
    assert other.exists(DIGEST)
    assert other.path(DIGEST).read_bytes() == CONTENT
    assert one.sweep(set(), older_than_seconds=0) == 1
    assert not other.exists(DIGEST)


def test_a_store_that_is_away_is_waited_for(bucket, tmp_path):
    files = FileStore(bucket, cache=tmp_path / "cache", patience_seconds=PATIENCE_SECONDS)
    object_store().stop()
    with ThreadPoolExecutor() as threads:
        put = threads.submit(files.put, made(tmp_path, "model.bin"))
        with pytest.raises(TimeoutError):
            put.result(timeout=2)
        object_store().start()
        assert put.result(timeout=PATIENCE_SECONDS) == DIGEST
    assert files.path(DIGEST).read_bytes() == CONTENT
    assert stored(files) == [f"{files._root}/objects/{DIGEST[:2]}/{DIGEST}"]


@pytest.mark.slow
def test_nobody_waits_who_has_no_patience_and_the_sentence_says_what_is_wrong(bucket, tmp_path):
    files = FileStore(bucket, cache=tmp_path / "cache")
    files.check()
    object_store().stop()
    try:
        with pytest.raises(StoreUnreachable, match="cannot be used: Could not connect to the endpoint") as error:
            files.receive(io.BytesIO(CONTENT), 10**9)
        assert "Check files_url, its endpoint and its credentials" in error.value.message
    finally:
        object_store().start()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [("s3://there-is-no-such-bucket-of-ours/pare", "cannot be used"), ("gopher://files", "Protocol not known")],
)
def test_a_url_that_leads_nowhere_gets_a_sentence(bucket, url, sentence):
    with pytest.raises(StoreUnreachable, match=sentence):
        FileStore(url).check()
