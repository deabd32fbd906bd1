"""The store's promises hold on both databases, and in a folder as well as behind an fsspec URL."""

from uuid import uuid4

import fsspec
import pytest

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


@pytest.fixture(params=["folder", "memory"])
def files(request, tmp_path):
    if request.param == "folder":
        yield FileStore(str(tmp_path / "files"))
        return
    root = f"/{uuid4().hex}"
    yield FileStore(f"memory:/{root}", cache=tmp_path / "cache")
    fsspec.filesystem("memory").rm(root, recursive=True)
