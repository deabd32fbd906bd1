"""The store's promises hold on both databases, and in a folder as well as behind an fsspec URL."""

import contextlib
from uuid import uuid4

import fsspec
import pytest

from tests.object_store import object_store
from tests.postgresql import fresh_database
from webapp.store.database import make_engine, make_sessions, upgrade
from webapp.store.files import FileStore


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """Of an empty database."""
    return f"sqlite:///{tmp_path}/pare.db" if request.param == "sqlite" else fresh_database()


@pytest.fixture
def engine(url):
    engine = make_engine(url)
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine):
    return make_sessions(engine)


@pytest.fixture
def bucket():
    """The URL of an empty bucket of S3."""
    return object_store().bucket(uuid4().hex)


@pytest.fixture(params=["folder", "memory", "s3"])
def files(request, tmp_path):
    if request.param == "folder":
        yield FileStore(str(tmp_path / "files"))
        return
    if request.param == "s3":
        yield FileStore(request.getfixturevalue("bucket"), cache=tmp_path / "cache")
        return
    root = f"/{uuid4().hex}"
    yield FileStore(f"memory:/{root}", cache=tmp_path / "cache")
    with contextlib.suppress(FileNotFoundError):
        fsspec.filesystem("memory").rm(root, recursive=True)
