"""What lies in the folders that the settings name can be chosen, and nothing else of the machine."""

import os

import pytest

from webapp.actions.errors import Conflict, NotFound, RequestInvalid
from webapp.actions.imports import MOST, import_from_hub, import_path, importable
from webapp.config import InstallationSettings
from webapp.store.database import make_engine, make_sessions, upgrade
from webapp.store.models import Checkpoint, UploadState


class Queue:
    def __init__(self):
        self.asked = []

    def enqueue_inspection(self, kind, id):
        self.asked.append((kind, id))


@pytest.fixture
def models(tmp_path):
    path = tmp_path / "models"
    path.mkdir()
    return path


@pytest.fixture
def settings(tmp_path, models):
    return InstallationSettings.load(tmp_path / "instance", import_folders=[str(models)])


@pytest.fixture
def session(settings):
    engine = make_engine(settings.database_url)
    upgrade(engine)
    with make_sessions(engine)() as session:
        yield session
    engine.dispose()


def hugging_face(folder, shards=1):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    for number in range(shards):
        name = "model.safetensors" if shards == 1 else f"model-{number + 1:05}-of-{shards:05}.safetensors"
        (folder / name).write_bytes(b"x" * 10)
    return folder


def listed(settings):
    return {one.name: one.size_bytes for one in importable(settings)}


def test_folders_and_files_are_listed_with_the_size_of_their_weights(settings, models):
    hugging_face(models / "bert", shards=3)
    (models / "bert" / "notes.txt").write_text("not weights")
    hugging_face(models / "deep" / "er")
    (models / "nets").mkdir()
    (models / "nets" / "net.pt").write_bytes(b"abc")
    (models / "nets" / "stray-00001-of-00002.safetensors").write_bytes(b"abc")  # without what belongs to it
    (models / "nets" / "data.zip").write_bytes(b"abc")
    hugging_face(models / ".hidden")
    assert listed(settings) == {"bert": 30, "deep/er": 10, "nets/net.pt": 3}


def test_hugging_face_s_cache_is_listed_by_the_names_of_its_models(settings, models):
    repository = models / "models--someone--tiny"
    snapshot = hugging_face(repository / "snapshots" / ("a" * 40))
    (repository / "blobs").mkdir()
    (snapshot / "model.safetensors").rename(repository / "blobs" / "hash.safetensors")
    (snapshot / "model.safetensors").symlink_to("../../blobs/hash.safetensors")
    assert listed(settings) == {"someone/tiny (aaaaaaaa)": 10}
    (repository / "blobs" / "hash.safetensors").unlink()
    assert listed(settings) == {}, "a download that is not whole"


def test_a_folder_that_is_not_there_is_empty_and_many_are_cut_off(tmp_path, models):
    for number in range(MOST + 5):
        (models / f"{number}.pt").touch()
    settings = InstallationSettings.load(tmp_path / "i", import_folders=[str(tmp_path / "gone"), str(models)])
    assert len(listed(settings)) == MOST


def test_one_of_them_becomes_a_checkpoint_that_is_inspected(settings, session, models):
    folder, queue = hugging_face(models / "bert"), Queue()
    row = import_path(str(folder), session=session, jobs=queue, settings=settings, dequantize=True, task="embedding")
    assert queue.asked == [("checkpoint", row.id)]
    assert (row.state, row.name, row.size_bytes, row.digest) == (UploadState.INSPECTING, "bert", 10, "")
    assert (row.dequantize, row.task, row.source) == (True, "embedding", {"kind": "path", "path": str(folder)})


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{models}/../secret",
        "{models}/bert/../../secret",
        "{models}/link",
        "{models}/folder/secret",
        "{models}x",
        "models/bert",
        "",
        "{models}/\0",
    ],
)
def test_nothing_outside_is_reached_by_dots_or_links(settings, session, models, tmp_path, path):
    hugging_face(models / "bert")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "modelsx").mkdir()
    (models / "link").symlink_to(tmp_path / "secret")
    (models / "folder").symlink_to(tmp_path)
    with pytest.raises(RequestInvalid, match="none of the folders"):
        import_path(path.format(models=models), session=session, jobs=Queue(), settings=settings)
    assert session.query(Checkpoint).count() == 0


def test_without_the_setting_nothing_can_be_imported(tmp_path, session, models):
    settings = InstallationSettings.load(tmp_path / "other")
    assert importable(settings) == []
    with pytest.raises(RequestInvalid):
        import_path(str(hugging_face(models / "bert")), session=session, jobs=Queue(), settings=settings)


def test_what_is_gone_or_no_file_says_so(settings, session, models):
    os.mkfifo(models / "pipe.pt")
    for name in ("gone", "pipe.pt"):
        with pytest.raises(NotFound, match="nothing at"):
            import_path(str(models / name), session=session, jobs=Queue(), settings=settings)


@pytest.fixture
def with_hub(tmp_path):
    return InstallationSettings.load(tmp_path / "instance", hub_url="http://127.0.0.1:1")


@pytest.mark.parametrize(("asked", "noted"), [(None, "main"), ("v1.0", "v1.0"), ("refs/pr/1", "refs/pr/1")])
def test_a_model_of_the_hub_is_queued_and_nothing_is_asked_of_the_hub(with_hub, session, asked, noted):
    queue = Queue()
    row = import_from_hub("someone/tiny", asked, session=session, jobs=queue, settings=with_hub)
    assert queue.asked == [("checkpoint", row.id)]
    assert row.source == {"kind": "hub", "repo_id": "someone/tiny", "asked": noted, "revision": None}


@pytest.mark.parametrize(
    "name", ["", "a/b/c", "../a", "a/..", "a/b?x", "a b", "https://x/y", "a--b/c", "a/-b", "ä/b", "a/b\n"]
)
def test_what_is_no_name_of_a_model_is_refused(with_hub, session, name):
    with pytest.raises(RequestInvalid, match="no name of a model"):
        import_from_hub(name, None, session=session, jobs=Queue(), settings=with_hub)


@pytest.mark.parametrize("revision", ["../x", "a b", "?", "-x", "a\n", "x" * 300])
def test_what_is_no_revision_is_refused(with_hub, session, revision):
    with pytest.raises(RequestInvalid, match="no branch, tag or commit"):
        import_from_hub("a/b", revision, session=session, jobs=Queue(), settings=with_hub)


def test_the_hub_is_off_until_the_settings_name_one(settings, session):
    with pytest.raises(Conflict, match="hub_url names no hub"):
        import_from_hub("someone/tiny", None, session=session, jobs=Queue(), settings=settings)
