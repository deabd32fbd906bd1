"""A stage's scratch folder outlives its child, its worker and its attempt, until the run has no use for it."""

import os

import pytest

from tests.jobs.bench import Bench
from webapp.store.models import Run, RunState


def scratches(bench):
    return [file for _, _, files in os.walk(bench.settings.work / "scratch") for file in files]  # some vanish meanwhile


def test_it_survives_the_child_and_the_worker_and_is_gone_when_the_stage_is_done(bench, tmp_path):
    worker = bench.start_worker()
    script = [
        ["remember", None],
        ["kill_self_once", str(tmp_path / "killed")],
        ["wait_for", str(tmp_path / "go")],
        ["write", "a"],
    ]
    run_id = bench.run({"stages": {"a": script, "b": [["remember", None], ["wait_for", str(tmp_path / "end")]]}})
    bench.until(lambda: "begun 1 times before" in bench.lines(run_id))
    assert len(scratches(bench)) == 1
    bench.end(worker)
    bench.until(lambda: not bench.children())
    bench.start_worker()
    (tmp_path / "go").touch()
    bench.until(lambda: bench.lines(run_id).count("begun 0 times before") == 2)  # b has its own
    assert "begun 2 times before" in bench.lines(run_id)
    assert len(scratches(bench)) == 1
    (tmp_path / "end").touch()
    assert bench.ended(run_id).state is RunState.SUCCEEDED
    bench.until(lambda: not list((bench.settings.work / "scratch").glob("*")))


@pytest.mark.parametrize("end", [["refuse", "no"], ["exit", 9]])
def test_a_retry_of_a_run_that_failed_goes_on_with_it(bench, end):
    bench.start_worker()
    run_id = bench.run({"stages": {"a": [["remember", None], end]}})
    assert bench.ended(run_id).state is RunState.FAILED
    bench.jobs.retry_run(run_id)
    bench.until(lambda: "begun 1 times before" in bench.lines(run_id))
    assert bench.ended(run_id).state is RunState.FAILED


def test_a_retry_of_a_run_that_was_cancelled_goes_on_with_it(bench, tmp_path):
    bench.start_worker()
    run_id = bench.run({"stages": {"a": [["remember", None], ["wait_for", str(tmp_path / "go")], ["write", "a"]]}})
    bench.until(lambda: scratches(bench))
    bench.jobs.cancel_run(run_id)
    bench.until(lambda: not bench.children())
    (tmp_path / "go").touch()
    bench.jobs.retry_run(run_id)
    assert bench.ended(run_id).state is RunState.SUCCEEDED
    assert "begun 1 times before" in bench.lines(run_id)
    bench.until(lambda: not scratches(bench))


def test_what_is_left_of_runs_that_are_deleted_or_ended_long_ago_is_swept(tmp_path):
    bench = Bench(tmp_path, "tests.jobs.scripted_worker", sweep_interval_seconds="0.5", sweep_age_seconds="3")
    try:
        bench.start_worker()
        cancelled, deleted = (bench.run({"stages": {"a": [["remember", None], ["refuse", "no"]]}}) for _ in range(2))
        bench.ended(cancelled)
        bench.ended(deleted)
        with bench.sessions.begin() as session:
            session.delete(session.get(Run, deleted))
        bench.until(lambda: not scratches(bench))
    finally:
        bench.close()
