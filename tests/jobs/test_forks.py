"""Children from the fork server, where they or it die early. That all goes well is shown by the supervisor's tests."""

import pytest

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
