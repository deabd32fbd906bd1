"""The samples come in as a user's files would, once."""

import pytest
from sqlalchemy import select

from webapp import samples
from webapp.store.database import make_engine, make_sessions, upgrade
from webapp.store.files import FileStore, digest_of
from webapp.store.models import Checkpoint, Dataset, UploadState


class Queue:
    """Stands where the job client does, so that no worker is needed."""

    def __init__(self):
        self.asked = []

    def enqueue_inspection(self, kind, id):
        self.asked.append((kind, id))


@pytest.fixture
def session(tmp_path):
    engine = make_engine(f"sqlite:///{tmp_path / 'pare.db'}")
    upgrade(engine)
    with make_sessions(engine)() as session:
        yield session
    engine.dispose()


@pytest.fixture
def files(tmp_path):
    return FileStore(str(tmp_path / "files"))


def test_each_sample_is_kept_and_queued_for_inspection(session, files):
    queue = Queue()
    made = samples.install_when_fresh(session, files, queue)
    assert [row.filename for row in made] == [path.name for path in samples.FILES]
    assert {row.state for row in made} == {UploadState.INSPECTING}
    assert [id for _, id in queue.asked] == [row.id for row in made]
    for row, path in zip(made, samples.FILES, strict=True):
        assert digest_of(files.path(row.digest)) == digest_of(path)


def test_all_unlabelled_digits_evaluate(session, files):
    samples.install(session, files, Queue())
    splits = {row.filename: row.split for row in session.scalars(select(Dataset))}
    assert splits == {"digits.npz": "auto", "digits_unlabelled.npz": "all"}


def test_installing_again_adds_nothing(session, files):
    samples.install(session, files, Queue())
    assert samples.install(session, files, Queue()) == []
    assert samples.install_when_fresh(session, files, Queue()) == []


def test_a_sample_that_was_deleted_stays_away_until_it_is_asked_for(session, files):
    checkpoint = samples.install(session, files, Queue())[0]
    session.delete(checkpoint)
    session.commit()
    assert samples.install_when_fresh(session, files, Queue()) == []
    assert [type(row) for row in samples.install(session, files, Queue())] == [Checkpoint]
