"""A fresh installation per test, and rows as finished runs leave them."""

import tempfile
from pathlib import Path

import pytest

from tests.serving.seeded_deployment import seed_onnx_run
from tests.web.views.seeded import seed_checkpoint, seed_dataset, seed_run
from webapp import create_app
from webapp.config import InstallationSettings
from webapp.jobs.deployer import Deployer
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


@pytest.fixture
def deployer(settings, files, sockets):
    """The deployer of this installation, which looks when it is told to."""
    engine = make_engine(settings.database_url)
    found = Deployer(settings, make_sessions(engine), files, sockets)
    yield found
    found.end()
    engine.dispose()


@pytest.fixture
def sockets():
    with tempfile.TemporaryDirectory(prefix="pare-") as folder:
        yield Path(folder)


@pytest.fixture
def deploy(client, session, files, tmp_path, deployer):
    """Deploys a small model by the API; waits until it is ready. Returns the API's answer."""

    def deploy(make, about):
        run = seed_onnx_run(session, files, make(tmp_path / make.__name__), "Small one", **about)
        made = client.post("/api/v1/deployments", json={"run_id": run.id})
        assert made.status_code == 201, made.json
        while client.get(f"/api/v1/deployments/{made.json['name']}").json["state"] == "starting":
            deployer.look()
        found = client.get(f"/api/v1/deployments/{made.json['name']}").json
        assert found["state"] == "ready", found
        return made.json

    return deploy
