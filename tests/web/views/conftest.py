"""A fresh installation per test, and rows as finished runs leave them."""

import pytest

from tests.web.views.seeded import seed_checkpoint, seed_dataset, seed_run
from webapp import create_app
from webapp.config import InstallationSettings
from webapp.store.database import make_engine, make_sessions


@pytest.fixture
def settings(tmp_path):
    return InstallationSettings.load(tmp_path / "instance", max_upload_bytes=1000000, min_free_bytes=0)


@pytest.fixture
def app(settings):
    app = create_app({"SETTINGS": settings, "TESTING": True, "WTF_CSRF_ENABLED": False})
    yield app
    app.extensions["pare"].jobs.close()


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def session(app, settings):
    """Of the same database, outside of any request."""
    engine = make_engine(settings.database_url)
    with make_sessions(engine)() as session:
        yield session
    engine.dispose()


@pytest.fixture
def files(app):
    return app.extensions["pare"].files


@pytest.fixture
def seed(session, files, tmp_path):
    """Makes runs that have succeeded, of one checkpoint on one dataset unless told otherwise."""
    known = {}

    def make(**more):
        if not known:
            known.update(checkpoint=seed_checkpoint(session), dataset=seed_dataset(session))
        return seed_run(session, files, tmp_path, **(known | more))

    return make


@pytest.fixture
def run(seed):
    return seed()
