"""Children from the fork server, where they or it die early. That all goes well is shown by the supervisor's tests."""

import time

import pytest

from webapp.jobs import fork_client
from webapp.jobs.errors import ChildDied
from webapp.jobs.fork_client import Forks


def test_children_that_die_before_they_say_a_word_are_given_up(tmp_path):
    forks = Forks("tests.jobs.dying_child", 1)
    try:
        with pytest.raises(ChildDied, match="kills it at once"):
            forks.start(tmp_path / "job.json", 0.2, lambda: False)
    finally:
        forks.close()
    assert forks.server_pid is None


def test_what_an_order_names_is_imported_for_its_child_and_all_that_follow(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "large.py").touch()
    (tmp_path / "entry.py").write_text(
        "import importlib, sys\n"
        "preload = lambda *modules: [importlib.import_module(name) for name in modules]\n"
        "main = lambda job_file: 7 if 'large' in sys.modules else 0\n"
    )
    forks, statuses = Forks("entry", 1), []
    try:
        for imports in ((), ["large"], ()):
            child = forks.start(tmp_path / "job.json", 0.2, lambda: False, imports)
            statuses.append(child.wait())
            child.close()
    finally:
        forks.close()
    assert statuses == [0, 7, 7]


@pytest.mark.parametrize(("imports", "ready", "goes"), [((), True, False), (["json"], True, True), ((), False, True)])
def test_a_server_that_rests_gives_back_what_it_was_made_to_import(tmp_path, monkeypatch, imports, ready, goes):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "entry.py").write_text("preload = lambda *modules: None\nmain = lambda job_file: 0\n")
    forks = Forks("entry", 1)
    try:
        child = forks.start(tmp_path / "job.json", 0.2, lambda: False, imports)
        assert child.wait() == 0
        child.close()
        before = forks.server_pid
        forks.rest(ready)
        assert forks.server_pid == before
        monkeypatch.setattr(fork_client, "REST_SECONDS", 0.2)
        time.sleep(0.3)
        forks.ended()  # only now
        forks.rest(ready)
        assert forks.server_pid == before
        time.sleep(0.3)
        forks.rest(ready)
        assert (forks.server_pid != before) is goes
        assert (forks.server_pid is not None) is ready or not goes
        forks.rest(ready)
        assert (forks.server_pid is not None) is ready or not goes
        again = forks.start(tmp_path / "job.json", 0.2, lambda: False)
        assert again.wait() == 0
        again.close()
    finally:
        forks.close()
