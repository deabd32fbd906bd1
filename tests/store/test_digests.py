"""Files live as long as a row names them."""

import io

import pytest

from webapp.jobs.runs import find_reusable
from webapp.store.digests import digest_of_files, forget_upload, named_digests, sweep
from webapp.store.files import FileStore
from webapp.store.models import Artifact, Checkpoint, Dataset, Run, Stage, StageState, UploadState


@pytest.fixture
def store(tmp_path):
    return FileStore(str(tmp_path / "files"))


def kept(store, content):
    digest, size_bytes = store.receive(io.BytesIO(content), 1000)
    return {"digest": digest, "size_bytes": size_bytes}


@pytest.fixture
def rows(sessions, store):
    """A checkpoint that is ready, a dataset in inspection, and a run with a stage and an artifact."""
    names = ("raw", "model", "raw data", "stage", "artifact", "nobody's")
    entries = {name: kept(store, name.encode()) for name in names}
    with sessions.begin() as session:
        checkpoint = Checkpoint(
            name="c", filename="c", size_bytes=3, digest=entries["raw"]["digest"], state=UploadState.READY,
            files={"model.safetensors": entries["model"]},
        )  # fmt: skip
        dataset = Dataset(name="d", filename="d", size_bytes=8, digest=entries["raw data"]["digest"])
        run = Run(name="r", checkpoint=checkpoint, recipe={})
        run.stages.append(
            Stage(position=0, name="s", title="S", key="k", state=StageState.SUCCEEDED, files={"out": entries["stage"]})
        )
        run.artifacts.append(Artifact(name="a", format="f", **entries["artifact"]))
        session.add_all([run, dataset])
    return entries, checkpoint, dataset


def test_every_kind_of_row_keeps_its_files_and_the_rest_is_swept(sessions, store, rows):
    entries, _, _ = rows
    with sessions() as session:
        assert named_digests(session) == {
            entries[name]["digest"] for name in ("model", "raw data", "stage", "artifact")
        }
        assert sweep(session, store, older_than_seconds=3600) == 0
        assert sweep(session, store, older_than_seconds=0) == 2
    assert {name for name, entry in entries.items() if not store.exists(entry["digest"])} == {"raw", "nobody's"}


def test_an_inspected_upload_is_forgotten(sessions, store, rows):
    entries, checkpoint, _ = rows
    with sessions() as session:
        forget_upload(session, store, checkpoint)
    assert not store.exists(entries["raw"]["digest"])


def test_an_upload_that_is_still_inspected_or_came_again_is_kept(sessions, store, rows):
    entries, checkpoint, dataset = rows
    kept(store, b"raw")  # the same bytes come again, after the row was made
    with sessions() as session:
        forget_upload(session, store, checkpoint)
        forget_upload(session, store, dataset)
    assert store.exists(entries["raw"]["digest"])
    assert store.exists(entries["raw data"]["digest"])


def test_the_digest_of_files_depends_on_paths_and_contents_alone():
    one = {"a": {"digest": "1", "size_bytes": 5}, "b": {"digest": "2", "size_bytes": 6}}
    assert digest_of_files(one) == digest_of_files({"b": {"digest": "2"}, "a": {"digest": "1"}})
    assert digest_of_files(one) != digest_of_files({"a": {"digest": "2"}, "b": {"digest": "1"}})


def test_a_stage_is_reused_only_while_all_its_files_are_there(sessions, store, rows):
    entries, _, _ = rows
    with sessions() as session:
        assert find_reusable(session, "k", store).name == "s"
        assert find_reusable(session, "another key", store) is None
        store.delete(entries["stage"]["digest"])
        assert find_reusable(session, "k", store) is None
