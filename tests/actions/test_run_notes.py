"""What people say of a run is kept as they said it, within limits that are told."""

import pytest

from webapp.actions.errors import BodyInvalid
from webapp.actions.run_notes import (
    NAME_MOST,
    NOTES_MOST,
    TAG_MOST,
    TAGS_MOST,
    RunEdit,
    clean_tags,
    edit_run,
    read_edit,
)
from webapp.store.models import Checkpoint, Run


@pytest.fixture
def run(session):
    checkpoint = Checkpoint(name="c", filename="c.pt", size_bytes=1, digest="0" * 64)
    run = Run(name="r", checkpoint=checkpoint, recipe={"steps": []})
    session.add(run)
    session.commit()
    return run


def test_what_is_not_named_stays(session, run):
    edit_run(session, run, RunEdit(name="another", notes="# why", tags=["b", "A"], starred=True))
    edit_run(session, run, RunEdit())
    session.expire_all()
    assert (run.name, run.notes, run.tags, run.starred) == ("another", "# why", ["a", "b"], True)
    edit_run(session, run, RunEdit(tags=["b", "c"], notes=""))
    session.expire_all()
    assert (run.name, run.notes, run.tags, run.starred) == ("another", "", ["b", "c"], True)


def test_tags_are_each_once_in_lower_case_and_trimmed():
    assert clean_tags([" For  the Paper ", "for the paper", "", "x\0"]) == ["for the paper", "x"]


@pytest.mark.parametrize(
    ("edit", "field", "said"),
    [
        ({"name": "\0 \n"}, "name", "at least one character"),
        ({"name": "n" * (NAME_MOST + 1)}, "name", "201 characters; at most 200"),
        ({"notes": "n" * (NOTES_MOST + 1)}, "notes", "at most 10,000"),
        ({"tags": ["t" * (TAG_MOST + 1)]}, "tags", "at most 40"),
        ({"tags": ["a,b"]}, "tags", "comma"),
        ({"tags": [str(n) for n in range(TAGS_MOST + 1)]}, "tags", "at most 20 tags; these are 21"),
    ],
)
def test_what_cannot_be_kept_is_said(session, run, edit, field, said):
    with pytest.raises(BodyInvalid, match=said) as refused:
        edit_run(session, run, RunEdit(**edit))
    assert refused.value.field == field


def test_a_form_says_which_of_them_change():
    assert read_edit({"csrf_token": "x", "tags": "a, b"}) == RunEdit(tags=["a", " b"])
    assert read_edit({"starred": "0"}) == RunEdit(starred=False)
    assert read_edit({"notes": "a"}) == RunEdit(notes="a")
    with pytest.raises(BodyInvalid, match="'seed'"):
        read_edit({"seed": "1"})
