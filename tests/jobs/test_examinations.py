"""What is asked about a checkpoint after its inspection is a child's work, and its death is no verdict."""

import pytest

from webapp.jobs.errors import ChildDied, Stopped
from webapp.jobs.examinations import UNKNOWN, look_at_structure, try_formats


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
    answer = {"unwritable": {"onnx": "It cannot be traced."}, "beside": {"gguf": 1000}}
    children = Children(answer)
    facts, found = tried(children, tmp_path)
    assert found == facts | answer
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


FACTS = {"architecture": {"family": "cnn", "title": "A model"}, "weights_bytes": 1}


def looked_at(answer, tmp_path, facts=FACTS):
    children = Children(answer)
    return look_at_structure(children, facts, tmp_path, print, lambda: False, 10**9), children.jobs


def test_what_can_be_cut_is_among_the_facts(tmp_path):
    answer = {"structure": {"groups": []}, "pass_size": None}
    found, (job,) = looked_at(answer, tmp_path)
    assert found == FACTS | answer
    assert (job["task"], job["memory_limit_bytes"]) == ("look_at_structure", 10**9)
    assert looked_at({}, tmp_path, {"architecture": None}) == ({"architecture": None}, [])


def test_where_nobody_could_look_the_facts_say_so(tmp_path):
    found, _ = looked_at(ChildDied("It ended with the signal SIGALRM."), tmp_path)
    assert found == FACTS | {"structure": {"unknown": UNKNOWN}, "pass_size": None}
    with pytest.raises(Stopped):
        looked_at(Stopped("deleted"), tmp_path)
