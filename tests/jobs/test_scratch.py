"""A stage's scratch folder outlives its child and its worker, and nothing else."""

import os

import pytest

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
    worker.kill()
    worker.wait()
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
def test_a_run_that_fails_leaves_none(bench, end):
    bench.start_worker()
    run = bench.ended(bench.run({"stages": {"a": [["remember", None], end]}}))
    assert run.state is RunState.FAILED
    bench.until(lambda: not scratches(bench))


def test_a_run_that_is_cancelled_leaves_none_and_a_retry_begins_anew(bench, tmp_path):
    bench.start_worker()
    run_id = bench.run({"stages": {"a": [["remember", None], ["wait_for", str(tmp_path / "go")], ["write", "a"]]}})
    bench.until(lambda: scratches(bench))
    bench.jobs.cancel_run(run_id)
    bench.until(lambda: not scratches(bench))
    (tmp_path / "go").touch()
    bench.jobs.retry_run(run_id)
    assert bench.ended(run_id).state is RunState.SUCCEEDED
    assert bench.lines(run_id).count("begun 0 times before") == 2


def test_what_a_dead_worker_left_of_a_run_that_ended_is_swept(bench, tmp_path):
    worker = bench.start_worker()
    run_id = bench.run({"stages": {"a": [["remember", None], ["sleep", 60]]}})
    bench.until(lambda: scratches(bench))
    worker.kill()
    worker.wait()
    bench.jobs.cancel_run(run_id)
    assert scratches(bench)
    bench.start_worker()
    bench.until(lambda: not scratches(bench))
    assert bench.get(Run, run_id).state is RunState.CANCELLED
