"""What all tests share: the zoo, and how they are spread over processes.

By file, for a file's fixtures are dear; those of the browser are two parts, each with a Pare of its own. Longest first,
by what `make durations` has recorded.
"""

import gc
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

from tests import zoo as animals

BROWSER = ("tests/e2e/test_pages", "tests/e2e/test_datasets"), ("tests/e2e/",)
RECORDED = Path(__file__).with_name("durations.txt")  # seconds and what is done at a stretch, the longest first


def at_a_stretch(nodeid):
    shared = (part[0] for part in BROWSER if nodeid.startswith(part))
    return next(shared, nodeid.partition("::")[0])


class Scheduling(LoadFileScheduling):
    def _split_scope(self, nodeid):
        return at_a_stretch(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)


def pytest_addoption(parser):
    parser.addoption("--record-durations", action="store_true", help=f"write {RECORDED.name} anew")


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        os.environ[animals.ROOT] = tempfile.mkdtemp(prefix="pare-zoo-")
        if config.getoption("record_durations"):
            config.pluginmanager.register(Durations())


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(animals.ROOT))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported and collected stays: the garbage collector need not look through it, then or ever after."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    stretches = [line.partition(" ")[2] for line in RECORDED.read_text().splitlines()]
    place = {stretch: number for number, stretch in enumerate(stretches)}
    items.sort(key=lambda item: place.get(at_a_stretch(item.nodeid), -1))  # what is new may take long


class Durations:
    """Adds up what each test took, and writes RECORDED."""

    def __init__(self):
        self.seconds = Counter()

    def pytest_runtest_logreport(self, report):
        self.seconds[at_a_stretch(report.nodeid)] += report.duration

    def pytest_sessionfinish(self):
        rows = (f"{seconds:.0f} {stretch}\n" for stretch, seconds in self.seconds.most_common())
        RECORDED.write_text("".join(rows))


@pytest.fixture(scope="session")
def zoo():
    """See tests/zoo.py."""
    return animals


@pytest.fixture
def plug_ins(tmp_path, monkeypatch):
    """See tests/plug_ins.py."""
    from tests.plug_ins import PlugIns

    added = PlugIns(tmp_path, monkeypatch)
    yield added
    added.taken_away()
