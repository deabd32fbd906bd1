"""Trying the formats is a child's work, and its death is no verdict."""

import pytest

from webapp.jobs.errors import ChildDied, Stopped
from webapp.jobs.formats import try_formats


class Children:
    def __init__(self, answer):
        self.answer, self.jobs = answer, []

    def run(self, job, folder, tell, unwanted):
        self.jobs.append(job)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def tried(children, tmp_path, family="transformers"):
    facts = {"architecture": family and {"family": family, "title": "A model"}, "weights_bytes": 1}
    return facts, try_formats(children, facts, tmp_path / "files", tmp_path, print, lambda: False, 10**9)


def test_what_was_found_is_among_the_facts(tmp_path):
    children = Children({"onnx": "It cannot be traced."})
    facts, found = tried(children, tmp_path)
    assert found == facts | {"unwritable": {"onnx": "It cannot be traced."}}
    (job,) = children.jobs
    assert job["task"] == "try_formats"
    assert job["memory_limit_bytes"] == 10**9
    assert job["seconds"] > 0


def test_a_child_that_died_leaves_the_facts_as_they_are(tmp_path):
    facts, found = tried(Children(ChildDied("It ended with the signal SIGALRM.")), tmp_path)
    assert found == facts
    with pytest.raises(Stopped):
        tried(Children(Stopped("deleted")), tmp_path)


@pytest.mark.parametrize("family", [None, "sequential", "resnet"])
def test_what_every_graph_holds_is_not_tried(tmp_path, family):
    children = Children({})
    facts, found = tried(children, tmp_path, family)
    assert (found, children.jobs) == (facts, [])
