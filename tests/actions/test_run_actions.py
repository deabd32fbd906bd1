"""What is done to many runs is done to those that it can be done to, and the others are told of."""

import pytest
from sqlalchemy import func, select

from tests.actions.listed_runs import made_runs
from webapp.actions import run_actions
from webapp.actions.errors import Conflict, RequestInvalid
from webapp.actions.run_actions import chosen, foreseen_deletion, perform
from webapp.actions.run_table import RunsView, ids_of
from webapp.store.models import Artifact, Deployment, Run, RunFigure, RunState, RunTag, Share


class Jobs:
    """The part of the job client that is used here; the queue itself is not."""

    def __init__(self, session):
        self.session, self.cancelled, self.retried = session, [], []

    def cancel_run(self, id_):
        self.cancelled.append(id_)

    def retry_run(self, id_, format=None):
        self.retried.append(id_)


@pytest.fixture
def runs(session):
    return made_runs(session, 20)


@pytest.fixture
def jobs(session):
    return Jobs(session)


def test_those_ticked_or_all_of_a_view(session, runs):
    assert chosen(session, "star", [runs[0].id, runs[0].id]) == [runs[0].id]
    view = RunsView(state="failed")
    assert chosen(session, "star", [], view) == ids_of(session, view)
    with pytest.raises(RequestInvalid, match="No run is chosen"):
        chosen(session, "star", [])
    with pytest.raises(RequestInvalid, match="At most 400 runs"):
        chosen(session, "compare", [str(n) for n in range(401)])


def test_tags_and_stars_of_many(session, runs, jobs, monkeypatch):
    monkeypatch.setattr(run_actions, "AT_ONCE", 7)
    ids = [run.id for run in runs]
    assert perform(session, jobs, "tag", ids, ["Keep", " new "]).sentence == "20 runs were tagged."
    assert set(ids_of(session, RunsView(tags=("keep", "new")))) == set(ids)
    perform(session, jobs, "untag", ids[:5], ["new"])
    assert set(ids_of(session, RunsView(tags=("new",)))) == set(ids[5:])
    assert perform(session, jobs, "star", ids[:3]).done == 3
    assert perform(session, jobs, "unstar", ids).done == 20
    assert ids_of(session, RunsView(starred=True)) == []
    with pytest.raises(RequestInvalid, match="No tag is named"):
        perform(session, jobs, "tag", ids, [" "])


def test_a_run_that_has_as_many_tags_as_may_be_keeps_them(session, runs, jobs):
    runs[1].tag_rows = [RunTag(tag=f"tag {n}") for n in range(20)]
    session.commit()
    done = perform(session, jobs, "tag", [runs[1].id, runs[2].id], ["another"])
    assert done.sentence == f"1 run was tagged. 1 could not be: The run {runs[1].name} would have more than 20 tags."
    assert perform(session, jobs, "tag", [runs[1].id], ["tag 3"]).done == 1


def test_only_what_has_not_ended_is_cancelled_and_only_what_failed_retried(session, runs, jobs):
    runs[1].state = RunState.RUNNING
    session.commit()
    ids = [run.id for run in runs[:6]]
    done = perform(session, jobs, "cancel", ids)
    assert (jobs.cancelled, done.done, len(done.left)) == ([ids[1]], 1, 5)
    assert done.sentence.endswith("And 2 more.")
    done = perform(session, jobs, "retry", [*ids, "nothere"])
    assert jobs.retried == [ids[0], ids[5]]
    assert "There is no run 'nothere'." in done.left


@pytest.mark.parametrize("action", ["delete", "tag", "untag", "star", "unstar", "cancel", "retry"])
def test_ids_of_no_run_are_told_whatever_was_to_be_done(session, runs, jobs, action):
    done = perform(session, jobs, action, ["nothere", "no\0ne"], ["x"])
    assert done.done == 0
    assert done.left == ["There is no run 'nothere'.", r"There is no run 'no\x00ne'."]


def test_what_is_no_id_is_not_foreseen_to_go(session, runs):
    assert foreseen_deletion(session, ["nothere", "no\0ne"]).going == 0


def test_deleting_many_says_before_what_goes_and_leaves_what_is_in_use(session, runs, jobs):
    runs[1].state = RunState.RUNNING
    session.add_all(Artifact(run_id=run.id, name="m", format="safetensors", size_bytes=100) for run in runs[:6])
    session.add(
        Deployment(name="d", run_id=runs[2].id, stage="s", artifact="m", about={}, token_hash="t", machine="here")
    )
    links = Share(run_ids=[runs[3].id]), Share(run_ids=[runs[4].id, runs[9].id], view={"x": "y"})
    session.add_all(links)
    runs[9].forked_from_id = runs[5].id
    session.commit()
    ids = [run.id for run in runs[:6]]
    what = foreseen_deletion(session, ids)
    assert (what.going, what.bytes, what.links, what.under_way, what.deployed) == (4, 400, 1, 1, 1)
    done = perform(session, jobs, "delete", ids)
    assert done.done == 4
    assert any("is running; cancel it first" in said for said in done.left)
    assert any("deployed as d" in said for said in done.left)
    session.expire_all()
    assert {id_ for id_ in session.scalars(select(Run.id)) if id_ in ids} == {runs[1].id, runs[2].id}
    for table in (Artifact, RunTag, RunFigure):
        assert set(session.scalars(select(table.run_id).where(table.run_id.in_(ids)))) <= {runs[1].id, runs[2].id}
    assert links[0].revoked_at is not None
    assert (links[1].run_ids, links[1].view["gone"]) == ([runs[9].id], [runs[4].name])
    assert session.get(Run, runs[9].id).forked_from_id is None
    assert session.scalar(select(func.count(Run.id))) == 16


def test_nothing_else_is_done(session, runs, jobs):
    with pytest.raises(RequestInvalid, match="'explode'"):
        perform(session, jobs, "explode", [runs[0].id])


def test_one_in_use_among_others_deletes_none(session, runs):
    runs[1].state = RunState.QUEUED
    session.commit()
    with pytest.raises(Conflict, match="cancel it"):
        run_actions.delete_runs(session, [runs[0].id, runs[1].id])
    assert session.get(Run, runs[0].id) is not None
