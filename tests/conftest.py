"""How the tests are spread over processes: by file, but those of the browser stay together, for they share one Pare."""

import pytest
from xdist.scheduler import LoadFileScheduling

from tests.zoo import Zoo

BROWSER = "tests/e2e/"


class Scheduling(LoadFileScheduling):
    def _split_scope(self, nodeid):
        return BROWSER if nodeid.startswith(BROWSER) else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory, worker_id):
    """See tests/zoo.py; its folder is that of all processes."""
    own = tmp_path_factory.getbasetemp()
    return Zoo((own if worker_id == "master" else own.parent) / "zoo")


@pytest.fixture
def plug_ins(tmp_path, monkeypatch):
    """See tests/plug_ins.py."""
    from tests.plug_ins import PlugIns

    added = PlugIns(tmp_path, monkeypatch)
    yield added
    added.taken_away()
