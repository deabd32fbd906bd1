"""What is put into a row comes out the same, on both databases."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, StatementError

from webapp.store.models import (
    Checkpoint,
    LogLine,
    Profile,
    Run,
    RunState,
    Stage,
    StageState,
    Study,
    UploadState,
    new_id,
)


@pytest.fixture
def run(sessions):
    with sessions.begin() as session:
        row = Checkpoint(name="c", filename="c.pt", size_bytes=5_000_000_000, digest="0" * 64)
        run = Run(name="r", checkpoint=row, recipe={"steps": [1.5, None, "ä"]})
        run.stages.append(Stage(position=0, name="baseline", title="Baseline", key="k"))
        session.add(run)
    return run


def test_states_come_back_as_members_of_their_enum(sessions, run):
    with sessions() as session:
        found = session.get(Run, run.id)
        assert found.state is RunState.QUEUED
        assert not found.state.final
        assert found.stages[0].state is StageState.WAITING
        assert found.checkpoint.state is UploadState.INSPECTING


def test_times_come_back_aware_and_in_utc(sessions, run):
    with sessions.begin() as session:
        session.get(Run, run.id).started_at = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    with sessions() as session:
        assert session.get(Run, run.id).started_at == datetime(2026, 1, 1, tzinfo=UTC)
        assert session.get(Run, run.id).created_at.utcoffset() == timedelta(0)


def test_a_time_without_a_zone_is_refused(sessions, run):
    with pytest.raises(StatementError, match="has no time zone"), sessions.begin() as session:
        session.get(Run, run.id).started_at = datetime(2026, 1, 1)


def test_sizes_beyond_32_bits_and_json_are_kept(sessions, run):
    with sessions() as session:
        found = session.get(Run, run.id)
        assert found.checkpoint.size_bytes == 5_000_000_000
        assert found.recipe == {"steps": [1.5, None, "ä"]}


def test_no_result_is_null_and_can_be_asked_for(sessions, run):
    with sessions.begin() as session:
        session.get(Run, run.id).receipt = None
    with sessions() as session:
        assert session.scalar(select(Run.id).where(Run.receipt.is_(None))) == run.id


def test_a_run_takes_its_stages_and_its_log_along_when_it_is_deleted(sessions, run):
    with sessions.begin() as session:
        session.add(LogLine(run_id=run.id, text="hello"))
    with sessions.begin() as session:
        session.delete(session.get(Run, run.id))
    with sessions() as session:
        assert session.scalars(select(Stage)).all() == []
        assert session.scalars(select(LogLine)).all() == []


def test_a_checkpoint_with_runs_cannot_be_deleted_under_them(sessions, run):
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.execute(Checkpoint.__table__.delete())


def test_ids_are_short_and_do_not_repeat():
    ids = {new_id() for _ in range(10_000)}
    assert len(ids) == 10_000
    assert {len(id) for id in ids} == {12}


def test_profiles_and_studies_go_with_their_checkpoint(sessions, run):
    with sessions.begin() as session:
        profile = Profile(checkpoint=run.checkpoint, key="k")
        study = Study(name="s", kind="race", checkpoint=run.checkpoint, profile=profile, question={})
        session.add(study)
        session.delete(run)
    with sessions.begin() as session:
        session.delete(session.get(Checkpoint, run.checkpoint_id))
    with sessions() as session:
        assert (session.get(Profile, profile.id), session.get(Study, study.id)) == (None, None)


def test_a_study_that_is_deleted_leaves_its_runs(sessions, run):
    with sessions.begin() as session:
        study = Study(name="s", kind="race", checkpoint=run.checkpoint, question={}, runs=[run])
        session.add(study)
    with sessions.begin() as session:
        session.delete(session.get(Study, study.id))
    with sessions() as session:
        assert session.get(Run, run.id).study_id is None
