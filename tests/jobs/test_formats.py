"""A format that fails takes nothing else with it, and is tried again alone."""

import os

import pytest

from tests.jobs.bench import Bench
from tests.jobs.test_worker import ledger
from webapp.jobs.errors import JobNotRetryable
from webapp.store.models import ArtifactState, Run, RunState, StageState

DIES = {"refuse": ["refuse", "No such operator."], "exit": ["exit", 9], "memory": ["allocate", 10**12]}


def script(tmp_path, **changed):
    """Two formats beside what all read; "bad" fails in its export until the file `mended` is there."""
    bad = changed.pop("bad", [["wait_for", str(tmp_path / "mended")], ["write", "bad"]])
    stages = {
        "a": [["write", "a"]],
        "export-bad": bad,
        "verify-bad": [["write", "proof"]],
        "export-good": [["write", "good"]],
        "verify-good": [["write", "proof"]],
    }
    return {"stages": stages | changed, "ledger": str(tmp_path / "ledger")}


def states(run):
    return {stage.name: stage.state.value for stage in run.stages}


def files(run):
    return {artifact.name: artifact.digest for artifact in run.delivered}


def rewritten(bench, run_id, name, steps):
    """The stage does something else from now on, as after an update; its key stays."""
    with bench.sessions.begin() as session:
        run = session.get(Run, run_id)
        run.preprocessing = {**run.preprocessing, "stages": {**run.preprocessing["stages"], name: steps}}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """One for all of them: a test has its own runs and ledger."""
    bench = Bench(tmp_path_factory.mktemp("bench"), "tests.jobs.scripted_worker")
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def worker(bench):
    return bench.start_worker()


@pytest.mark.parametrize("how", DIES)
def test_what_is_proven_is_delivered_and_the_format_that_failed_is_named(bench, worker, tmp_path, how):
    run = bench.ended(bench.run(script(tmp_path, bad=[["write", "half"], DIES[how]])))
    assert (run.state, run.error, run.progress) == (RunState.SUCCEEDED, None, 1.0)
    assert [state for name, state in states(run).items() if "bad" in name] == ["failed", "skipped"]
    (lost,) = (artifact for artifact in run.artifacts if artifact.state is ArtifactState.FAILED)
    assert (lost.name, lost.digest, lost.size_bytes) == ("bad.txt", None, None)
    assert lost.reason == run.undelivered[0]["reason"] == run.stages[1].error
    assert lost.reason["code"] == {"refuse": "recipe_invalid", "exit": "child_died", "memory": "out_of_memory"}[how]
    assert set(files(run)) == {"a-out.txt", "export-good-out.txt", "verify-good-out.txt"}
    assert any(lost.reason["message"] in line for line in bench.lines(run.id))


def test_a_format_is_retried_alone_and_the_others_keep_their_outputs(bench, worker, tmp_path):
    worse = {"export-worse": [["exit", 8]]}
    run_id = bench.run(script(tmp_path, bad=[["exit", 9]], **worse))
    before = bench.ended(run_id)
    assert {artifact.format for artifact in before.artifacts if not artifact.digest} == {"bad", "worse"}
    rewritten(bench, run_id, "export-bad", [["write", "mended"]])
    done = ledger(tmp_path / "ledger")
    bench.jobs.retry_run(run_id, "bad")
    bench.jobs.retry_run(run_id, "bad")  # asked twice
    after = bench.ended(run_id)
    assert ledger(tmp_path / "ledger")[len(done) :] == ["export-bad", "verify-bad"]
    assert (after.state, after.attempt) == (RunState.SUCCEEDED, 2)
    assert files(after).items() > files(before).items()
    assert [row["format"] for row in after.undelivered] == ["worse"]
    assert states(after)["export-worse"] == "failed"
    rewritten(bench, run_id, "export-worse", [["write", "mended too"]])
    bench.jobs.retry_run(run_id)  # all that failed
    assert bench.ended(run_id).undelivered == []
    with pytest.raises(JobNotRetryable):
        bench.jobs.retry_run(run_id)


@pytest.mark.parametrize("ends", ["cancelled", "fails"])
def test_a_retry_that_comes_to_nothing_leaves_the_run_as_it_was(bench, worker, tmp_path, ends):
    run_id = bench.run(script(tmp_path, bad=[["exit", 9]]))
    before = bench.ended(run_id)
    rewritten(bench, run_id, "export-bad", [["sleep", 60]] if ends == "cancelled" else [["exit", 10]])
    bench.jobs.retry_run(run_id, "bad")
    assert bench.get(Run, run_id).receipt == before.receipt  # while it is tried, too
    if ends == "cancelled":
        bench.until(lambda: states(bench.get(Run, run_id))["export-bad"] == StageState.RUNNING and bench.children())
        bench.jobs.cancel_run(run_id)
        bench.until(lambda: not bench.children())
    after = bench.ended(run_id)
    assert (after.state, after.error) == (RunState.SUCCEEDED, None)
    assert files(after) == files(before)
    assert len(after.undelivered) == 1
    assert ("status 10" in after.undelivered[0]["reason"]["message"]) == (ends == "fails")


def test_an_original_that_cannot_be_written_leaves_its_format_delivered(bench, worker, tmp_path):
    recipe = script(tmp_path, **{"original-good": [["exit", 9]]})
    order = ["a", "original-good", "export-good", "verify-good"]
    recipe["stages"] = {name: recipe["stages"][name] for name in order}
    run = bench.ended(bench.run(recipe))
    assert (run.state, run.undelivered) == (RunState.SUCCEEDED, [])
    assert states(run)["original-good"] == "failed"
    assert {"export-good-out.txt", "verify-good-out.txt"} <= set(files(run))
    recipe["stages"]["original-good"] = [["write", "the original"]]
    again = bench.ended(bench.run(recipe, run.checkpoint_id))  # which does not take over what was made without it
    assert [stage.state.value for stage in again.stages][1:3] == ["succeeded", "succeeded"]


def test_a_retry_that_cannot_begin_says_why(bench, worker, tmp_path):
    run_id = bench.run(script(tmp_path, bad=[["exit", 9]]))
    before = bench.ended(run_id)
    with bench.sessions.begin() as session:
        session.get(Run, run_id).preprocessing = {"no": "stages"}
    bench.jobs.retry_run(run_id, "bad")
    after = bench.ended(run_id)
    assert (after.state, files(after)) == (RunState.SUCCEEDED, files(before))
    (lost,) = (artifact for artifact in after.artifacts if artifact.digest is None)
    assert lost.reason == after.undelivered[0]["reason"]
    assert lost.reason["code"] == "internal"


def test_what_every_run_stands_on_still_fails_it(bench, worker, tmp_path):
    run = bench.ended(bench.run(script(tmp_path, a=[["exit", 9]])))
    assert (run.state, run.error["code"], run.artifacts) == (RunState.FAILED, "child_died", [])


def test_a_worker_that_is_killed_in_a_formats_stage_is_followed_by_one_that_goes_on(bench, worker, tmp_path):
    run_id = bench.run(script(tmp_path, **{"export-worse": [["exit", 9]]}))
    bench.until(lambda: "export-bad" in ledger(tmp_path / "ledger") and bench.children())
    os.kill(worker.pid, 9)
    (tmp_path / "mended").touch()
    bench.start_worker()
    run = bench.ended(run_id)
    assert run.state is RunState.SUCCEEDED
    assert "export-bad-out.txt" in files(run)
    assert [row["format"] for row in run.undelivered] == ["worse"]
