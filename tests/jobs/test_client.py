"""What the web process may ask for: everything twice, in any order, and nothing is done twice."""

import pytest
from dbos import DBOSClient

from tests.postgresql import fresh_database
from webapp.jobs.client import JobClient
from webapp.jobs.errors import JobMissing, JobNotRetryable
from webapp.store.database import make_engine
from webapp.store.models import Run, RunState, Stage, StageState


def workflows(bench):
    engine = make_engine(bench.settings.jobs_database_url)
    client = DBOSClient(system_database_engine=engine)
    found = {status.workflow_id: status.status for status in client.list_workflows()}
    client.destroy()
    engine.dispose()
    return found


def test_a_run_is_queued_once_however_often_it_is_asked_for(bench):
    run_id = bench.run({}, queue=False)
    for _ in range(3):
        bench.jobs.enqueue_run(run_id)
    another = JobClient(bench.settings, bench.engine)
    another.enqueue_run(run_id)
    another.close()
    assert workflows(bench) == {f"{run_id}-1": "ENQUEUED"}


def test_a_run_that_has_ended_is_not_queued(bench):
    run_id = bench.run({}, queue=False, state=RunState.SUCCEEDED)
    bench.jobs.enqueue_run(run_id)
    bench.jobs.cancel_run(run_id)
    assert bench.get(Run, run_id).state is RunState.SUCCEEDED


def test_cancelling_shows_at_once_and_twice_is_once(bench):
    run_id = bench.run({}, queue=True)
    with bench.sessions.begin() as session:
        session.add(Stage(run_id=run_id, position=0, name="s", title="S", key="k", state=StageState.RUNNING))
    bench.jobs.cancel_run(run_id)
    run = bench.get(Run, run_id)
    assert (run.state, run.stages[0].state) == (RunState.CANCELLED, StageState.CANCELLED)
    assert run.finished_at is not None
    bench.jobs.cancel_run(run_id)
    assert bench.get(Run, run_id).finished_at == run.finished_at


def test_cancelling_a_run_that_was_never_queued_works_too(bench):
    run_id = bench.run({}, queue=False)
    bench.jobs.cancel_run(run_id)
    assert bench.get(Run, run_id).state is RunState.CANCELLED


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.CANCELLED])
def test_a_retry_is_a_new_attempt_that_keeps_what_is_done(bench, state):
    run_id = bench.run({}, queue=False, state=state, error={"code": "x", "message": "y"}, progress=0.5)
    with bench.sessions.begin() as session:
        for name, was in (("a", StageState.SUCCEEDED), ("b", StageState.REUSED), ("c", StageState.FAILED)):
            session.add(Stage(run_id=run_id, position=0, name=name, title=name, key="k", state=was))
    bench.jobs.retry_run(run_id)
    bench.jobs.retry_run(run_id)
    run = bench.get(Run, run_id)
    assert (run.state, run.attempt, run.error) == (RunState.QUEUED, 2, None)
    assert {stage.name: stage.state for stage in run.stages} == {
        "a": StageState.SUCCEEDED,
        "b": StageState.REUSED,
        "c": StageState.WAITING,
    }
    assert workflows(bench) == {f"{run_id}-2": "ENQUEUED"}


def test_what_cannot_be_done_is_said(bench):
    run_id = bench.run({}, queue=False, state=RunState.SUCCEEDED)
    with pytest.raises(JobNotRetryable, match="has succeeded"):
        bench.jobs.retry_run(run_id)
    for ask in (bench.jobs.enqueue_run, bench.jobs.cancel_run, bench.jobs.retry_run):
        with pytest.raises(JobMissing, match="There is no run nothing"):
            ask("nothing")


def test_the_same_on_postgresql(tmp_path):
    from tests.jobs.bench import Bench

    bench = Bench(tmp_path, "tests.jobs.scripted_worker", database_url=fresh_database())
    run_id = bench.run({})
    bench.jobs.cancel_run(run_id)
    bench.jobs.retry_run(run_id)
    assert workflows(bench) == {f"{run_id}-1": "ENQUEUED", f"{run_id}-2": "ENQUEUED"}
    bench.close()
