"""Of several who change the same at the same time the last one wins, and none fails."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import func, select

from tests.actions.listed_runs import made_runs
from tests.patience import PATIENCE_SECONDS
from webapp.actions.errors import Conflict
from webapp.actions.replays import ReplayRequest, start_replay
from webapp.actions.run_notes import RunEdit, edit_run
from webapp.actions.versions import set_best, set_version
from webapp.store.database import make_sessions
from webapp.store.models import Checkpoint, Deployment, DeploymentState, Replay, Run, RunState, UploadState

AT_ONCE = 6


@pytest.fixture
def at_once(session):
    """Calls it in as many threads with a session and its number each, once all have read what they will change."""
    sessions = make_sessions(session.get_bind())

    def call(read, change):
        met = Barrier(AT_ONCE)

        def one(number):
            with sessions() as own:
                found = read(own)
                met.wait(PATIENCE_SECONDS)
                change(own, found, number)

        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(one, range(AT_ONCE)))
        session.expire_all()

    return call


@pytest.fixture
def runs(session):
    return [run for run in made_runs(session, 40) if run.state == RunState.SUCCEEDED]


def test_the_last_tags_and_notes_stay(session, runs, at_once):
    run = next(run for run in runs if not run.tags and run.note is None)

    def read(own):
        found = own.get(Run, run.id)
        assert (found.tags, found.note) == ([], None)
        return found

    def change(own, found, number):
        edit_run(own, found, RunEdit(tags=["all", f"of {number}"], notes=f"Note {number}"))

    at_once(read, change)
    assert run.note.text.startswith("Note ")
    assert run.tags == ["all", f"of {run.note.text.removeprefix('Note ')}"]


def test_the_last_one_said_to_be_the_best_is_it(session, runs, at_once):
    checkpoint = session.get(Checkpoint, runs[0].checkpoint_id)
    of_it = [run.id for run in runs if run.checkpoint_id == checkpoint.id][:AT_ONCE]

    def read(own):
        return own.get(Checkpoint, checkpoint.id), [own.get(Run, id_) for id_ in of_it]

    for _ in range(5):
        at_once(read, lambda own, found, number: set_best(own, found[0], of_it[number]))
        assert checkpoint.best_run_id in of_it


def test_versions_said_at_once_make_no_circle(session, at_once):
    """Each is to be newer than the next one, and the last newer than the first: whoever comes last is refused."""
    ready = {"state": UploadState.READY, "size_bytes": 1, "facts": {}}
    rows = [Checkpoint(name=f"v{n}", filename=f"v{n}", digest=str(n) * 64, **ready) for n in range(AT_ONCE)]
    session.add_all(rows)
    session.commit()
    ids = [row.id for row in rows]
    for _ in range(5):
        for row in rows:
            row.newer_than_id = None
        session.commit()
        refused = []

        def change(own, found, number, refused=refused):
            try:
                set_version(own, found[number], ids[(number + 1) % AT_ONCE])
            except Conflict as error:
                refused.append((number, error.message))

        at_once(lambda own: [own.get(Checkpoint, id_) for id_ in ids], change)
        ((number, sentence),) = refused
        assert sentence.startswith(f"v{(number + 1) % AT_ONCE} is a newer version of v{number} already")
        assert [row.newer_than_id is None for row in rows] == [n == number for n in range(AT_ONCE)]


def test_one_replay_is_begun_of_those_that_are_asked_for_at_once(session, runs, at_once):
    run = next(run for run in runs if run.dataset_id)
    about = {"stage": "s", "artifact": "model.onnx", "about": {}, "token_hash": "t", "machine": "here"}
    session.add(row := Deployment(name="d", run_id=run.id, state=DeploymentState.READY, **about))
    session.commit()
    refused = []

    def begin(own, found, _):
        try:
            start_replay(own, "here", found, ReplayRequest())
        except Conflict as error:
            refused.append(error.message)

    at_once(lambda own: own.get(Deployment, row.id), begin)
    assert session.scalar(select(func.count(Replay.id))) == 1
    assert len(refused) == AT_ONCE - 1
    assert all("under way already" in message for message in refused)
