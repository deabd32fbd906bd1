"""Runs and inspections by real workers, with scripted work: what is promised when workers, children and wishes end."""

import io
import os
import signal
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from tests.jobs.bench import FACTS, Bench
from tests.patience import CANCELLED_WITHIN_SECONDS, within
from tests.postgresql import fresh_database
from webapp.jobs.examinations import UNKNOWN
from webapp.store.models import Checkpoint, Dataset, Run, RunState, StageState, UploadState, Worker

WRITES = {name: [["write", name]] for name in ("a", "b", "c")}


def ledger(path, event="start"):
    """The stages that were started (or ended), in order."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split()[1] for line in lines if line.startswith(event)]


def digests(run):
    return {artifact.name: artifact.digest for artifact in run.artifacts}


@pytest.fixture(params=["sqlite", "postgresql"])
def any_bench(request, tmp_path):
    settings = {"database_url": fresh_database()} if request.param == "postgresql" else {}
    bench = Bench(tmp_path, "tests.jobs.scripted_worker", **settings)
    yield bench
    bench.close()


def test_an_upload_is_inspected_and_a_run_succeeds_with_all_it_has_to_show(any_bench, tmp_path):
    bench = any_bench
    bench.start_worker()
    raw = bench.script(["write", "normalised"], facts=FACTS)
    checkpoint_id = bench.upload("checkpoint", "net.pt", raw)
    checkpoint = bench.inspected(Checkpoint, checkpoint_id)
    assert checkpoint.state is UploadState.READY
    assert checkpoint.facts == FACTS | {"notes": ["inspect_checkpoint", "net.pt"]}
    assert bench.files.path(checkpoint.files["out.txt"]["digest"]).read_text() == "normalised"
    bench.until(lambda: not bench.files.exists(checkpoint.digest))  # nothing reads the raw bytes any more

    script = WRITES | {"b": [["log", "hello"], ["write", "b"], ["sleep", 0.2]]}
    run = bench.ended(bench.run({"stages": script}, checkpoint_id))
    assert run.error is None
    assert run.state is RunState.SUCCEEDED
    assert (run.progress, run.seconds_left, run.baseline, run.result) == (
        1.0,
        None,
        {"size_bytes": 2},
        {"size_bytes": 1},
    )
    assert [(stage.name, stage.state) for stage in run.stages] == [(name, StageState.SUCCEEDED) for name in "abc"]
    assert run.receipt["b"] == {"task": "stage", "stage": "b", "inputs": ["a"]}
    assert bench.files.path(run.artifacts[2].digest).read_text() == "c|b|a|normalised|normalised|normalised"
    assert bench.lines(run.id) == ["Stage a", "Stage b", "hello", "Stage c"]
    assert not bench.settings.work.exists() or not [path for path in bench.settings.work.rglob("*") if path.is_file()]


def test_the_structure_of_checkpoints_that_an_earlier_version_inspected_is_looked_at(any_bench):
    bench, old = any_bench, {"architecture": {"family": "cnn", "title": "A model"}}
    given = {
        "fine": old | {"script": []},
        "dies": old | {"script": [["exit", 9]]},
        "known": old | {"script": [], "structure": {"unknown": "a reason"}, "pass_size": None},
        "weights only": {"architecture": None},
    }
    with bench.sessions.begin() as session:
        for name, facts in given.items():
            about = {"filename": name, "size_bytes": 1, "digest": "0" * 64, "state": UploadState.READY}
            session.add(Checkpoint(name=name, facts=facts, **about))

    def structures():
        with bench.sessions() as session:
            return {row.name: row.facts.get("structure") for row in session.scalars(select(Checkpoint))}

    bench.start_worker()
    bench.until(lambda: structures()["fine"] and structures()["dies"])
    assert structures() == {
        "fine": {"task": "look_at_structure"},
        "dies": {"unknown": UNKNOWN},
        "known": {"unknown": "a reason"},
        "weights only": None,
    }


def test_a_refused_upload_says_why_and_leaves_nothing(bench):
    bench.start_worker()
    refused = bench.upload(
        "checkpoint", "bad.pt", bench.script(["write", "half"], ["refuse", "It holds a foreign global."])
    )
    died = bench.upload("dataset", "bad.npz", bench.script(["exit", 9]))
    checkpoint, dataset = bench.inspected(Checkpoint, refused), bench.inspected(Dataset, died)
    assert checkpoint.state is dataset.state is UploadState.REFUSED
    assert checkpoint.reason["message"] == "It holds a foreign global."
    assert dataset.reason["code"] == "child_died"
    assert dataset.reason["message"].startswith("The process that read bad.npz did not survive it")
    bench.until(lambda: not bench.files._fs.find(bench.files._root))


def test_inspections_have_a_limit_of_time_and_run_two_at_once(tmp_path):
    bench = Bench(tmp_path, "tests.jobs.scripted_worker", inspection_seconds="2")
    try:
        bench.start_worker()
        endless = bench.upload("checkpoint", "endless.pt", bench.script(["wait_for", str(tmp_path / "never")]))
        quick = bench.upload("dataset", "quick.npz", bench.script())
        assert bench.inspected(Dataset, quick).state is UploadState.READY
        reason = bench.inspected(Checkpoint, endless).reason
        assert reason["code"] == "inspection_too_long"
        assert "Reading endless.pt took longer than the 2 seconds" in reason["message"]
        assert bench.children() == []
    finally:
        bench.close()


def test_a_stage_that_fails_fails_the_run_and_the_worker_lives_on(bench):
    worker = bench.start_worker()
    script = WRITES | {"b": [["refuse", "The ratio is too high."]]}
    run = bench.ended(bench.run({"stages": script}))
    assert run.state is RunState.FAILED
    assert run.error == {"code": "recipe_invalid", "message": "The ratio is too high.", "field": "steps.0"}
    assert [stage.state for stage in run.stages] == [StageState.SUCCEEDED, StageState.FAILED, StageState.WAITING]
    assert bench.ended(bench.run({"stages": {"a": [["allocate", 10**12]]}})).error["code"] == "out_of_memory"
    assert bench.ended(bench.run({"no": "stages"})).error["code"] == "internal"
    assert bench.ended(bench.run(None, recipe={"steps": "none"})).error["code"] == "recipe_invalid"
    assert bench.ended(bench.run({"stages": WRITES})).state is RunState.SUCCEEDED
    assert worker.poll() is None


def test_progress_covers_all_stages_and_the_time_left_is_told(bench):
    bench.start_worker()
    script = {"a": [["sleep", 0.4]], "b": [["progress", 0.5], ["sleep", 30]]}
    run_id = bench.run({"stages": script})
    run = bench.until(lambda: (found := bench.get(Run, run_id)).progress > 0.7 and found)
    assert run.progress == pytest.approx(0.75)
    assert 0 < run.seconds_left < 10
    assert run.message == "at 0.5"
    bench.jobs.cancel_run(run_id)


def test_cancelling_kills_the_child_within_three_seconds_and_a_retry_goes_on_from_there(bench, tmp_path):
    bench.start_worker()
    script = WRITES | {"b": [["kill_self_once", str(tmp_path / "once")], ["sleep", 0.1], ["write", "b"]]}
    (tmp_path / "once").touch()
    slow = script | {"c": [["sleep", 600]]}
    checkpoint_id = bench.checkpoint()
    run_id = ""

    def cancelled():
        nonlocal run_id
        began = ledger(tmp_path / "ledger").count("c")
        run_id = bench.run({"stages": slow, "ledger": str(tmp_path / "ledger")}, checkpoint_id)
        bench.until(lambda: ledger(tmp_path / "ledger").count("c") > began and bench.children())
        asked = time.monotonic()
        bench.jobs.cancel_run(run_id)
        bench.until(lambda: not bench.children())
        assert bench.get(Run, run_id).state is RunState.CANCELLED
        return time.monotonic() - asked

    within(CANCELLED_WITHIN_SECONDS, cancelled)
    queued = bench.run({"stages": slow, "ledger": str(tmp_path / "ledger")}, checkpoint_id)
    bench.jobs.cancel_run(queued)
    begun = ledger(tmp_path / "ledger")
    assert begun[:3] == ["a", "b", "c"]
    with bench.sessions.begin() as session:
        session.get(Run, run_id).preprocessing = {"stages": script, "ledger": str(tmp_path / "ledger")}
    bench.jobs.retry_run(run_id)
    run = bench.ended(run_id)
    assert run.state is RunState.SUCCEEDED
    assert ledger(tmp_path / "ledger") == [*begun, "c"]
    assert bench.get(Run, queued).state is RunState.CANCELLED
    assert "Traceback" not in bench.said(), "a cancel is no error"


def test_what_an_earlier_run_made_is_reused(bench, tmp_path):
    bench.start_worker()
    recipe = {"stages": WRITES, "ledger": str(tmp_path / "ledger")}
    checkpoint_id = bench.checkpoint()
    first = bench.ended(bench.run(recipe, checkpoint_id))
    changed = {"stages": WRITES | {"c": [["write", "other"]]}, "ledger": str(tmp_path / "ledger")}
    second = bench.ended(bench.run(changed, checkpoint_id))
    assert [stage.state for stage in second.stages] == [StageState.REUSED, StageState.REUSED, StageState.SUCCEEDED]
    assert digests(first)["b-out.txt"] == digests(second)["b-out.txt"]
    assert digests(first)["c-out.txt"] != digests(second)["c-out.txt"]
    assert ledger(tmp_path / "ledger") == ["a", "b", "c", "c"]


def test_a_killed_worker_loses_nothing_and_nothing_is_done_twice(any_bench, tmp_path):
    bench = any_bench
    script = {name: [["sleep", 0.3], ["write", name]] for name in ("a", "b", "c")}
    checkpoint_id = bench.checkpoint()
    run_id = bench.run({"stages": script, "ledger": str(tmp_path / "ledger")}, checkpoint_id)
    for name in ("a", "b", "c"):
        worker = bench.start_worker()
        bench.until(lambda name=name: name in ledger(tmp_path / "ledger"))
        bench.end(worker)
        bench.until(lambda: not bench.children())
    bench.start_worker()
    run = bench.ended(run_id)
    assert run.state is RunState.SUCCEEDED
    assert ledger(tmp_path / "ledger") == ["a", "a", "b", "b", "c", "c"]
    assert ledger(tmp_path / "ledger", "end") == ["a", "b", "c"]
    assert [stage.state for stage in run.stages] == [StageState.SUCCEEDED] * 3


def test_a_worker_that_is_told_to_end_does_so_at_once_and_its_run_goes_on_later(bench, tmp_path):
    script = {"a": [["write", "a"], ["wait_for", str(tmp_path / "go")]], "b": [["write", "b"]]}
    run_id = bench.run({"stages": script, "ledger": str(tmp_path / "ledger")})

    def ended():
        begun = len(ledger(tmp_path / "ledger"))
        worker = bench.start_worker()
        bench.until(lambda: len(ledger(tmp_path / "ledger")) > begun)
        asked = time.monotonic()
        assert bench.end(worker, signal.SIGTERM) == 0
        return time.monotonic() - asked

    within(3.0, ended)
    assert bench.children() == []
    assert bench.get(Run, run_id).state is RunState.RUNNING
    with bench.sessions() as session:
        assert session.query(Worker).all() == []
    (tmp_path / "go").touch()
    bench.start_worker()
    assert bench.ended(run_id).state is RunState.SUCCEEDED


def test_a_worker_takes_over_what_a_dead_one_held(bench, tmp_path):
    script = {"a": [["write", "a"]], "b": [["wait_for", str(tmp_path / "go")], ["write", "b"]]}
    held = bench.run({"stages": script, "ledger": str(tmp_path / "ledger")})
    first = bench.start_worker()
    bench.until(lambda: "b" in ledger(tmp_path / "ledger"))
    second = bench.start_worker()
    assert bench.ended(bench.run({"stages": WRITES})).state is RunState.SUCCEEDED  # the second has arrived
    bench.end(first)
    (tmp_path / "go").touch()
    run = bench.ended(held)
    assert run.state is RunState.SUCCEEDED
    assert ledger(tmp_path / "ledger") == ["a", "b", "b"]
    assert second.poll() is None


def test_a_worker_that_was_taken_for_dead_ends_when_it_wakes_up(bench, tmp_path):
    script = {"a": [["wait_for", str(tmp_path / "go")], ["write", "a"]]}
    first = bench.start_worker()
    run_id = bench.run({"stages": script, "ledger": str(tmp_path / "ledger")})
    bench.until(lambda: ledger(tmp_path / "ledger"))
    bench.freeze(first)
    bench.start_worker()
    bench.until(lambda: len(ledger(tmp_path / "ledger")) == 2)
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait() == 75
    (tmp_path / "go").touch()
    assert bench.ended(run_id).state is RunState.SUCCEEDED
    assert len(bench.get(Run, run_id).artifacts) == 1


def test_two_workers_work_side_by_side_and_one_does_one_run_at_a_time(bench, tmp_path):
    for _ in range(2):
        bench.start_worker()
    scripts = [{"a": [["sleep", 0.6], ["write", str(at)]]} for at in range(4)]
    run_ids = [bench.run({"stages": script}) for script in scripts]
    most = 0

    def all_ended():
        nonlocal most
        most = max(most, len(bench.children()))
        return all(bench.get(Run, run_id).state.final for run_id in run_ids)

    bench.until(all_ended)
    assert most == 2
    assert {bench.get(Run, run_id).state for run_id in run_ids} == {RunState.SUCCEEDED}
    with bench.sessions() as session:
        assert len({worker.executor_id for worker in session.query(Worker)}) == 2


def test_an_inspection_does_not_wait_behind_a_long_run(bench):
    bench.start_worker()
    long = bench.run({"stages": {"a": [["sleep", 600]]}})
    bench.until(bench.children)
    upload = bench.upload("dataset", "x.npz", bench.script())
    assert bench.inspected(Dataset, upload).state is UploadState.READY
    bench.jobs.cancel_run(long)


def test_rows_that_a_crash_kept_from_the_queue_are_queued(bench):
    then = datetime.now(UTC) - timedelta(minutes=5)
    run_id = bench.run({"stages": WRITES}, queue=False, created_at=then)
    digest = bench.files.receive(io.BytesIO(bench.script()), 10**6)[0]
    with bench.sessions.begin() as session:
        upload = Dataset(name="d", filename="d", size_bytes=1, digest=digest, created_at=then)
        session.add(upload)
    bench.start_worker()
    assert bench.ended(run_id).state is RunState.SUCCEEDED
    assert bench.inspected(Dataset, upload.id).state is UploadState.READY


def test_a_deleted_run_is_left_alone(bench, tmp_path):
    worker = bench.start_worker()
    run_id = bench.run({"stages": {"a": [["sleep", 600]]}})
    bench.until(bench.children)
    with bench.sessions.begin() as session:
        session.delete(session.get(Run, run_id))
    bench.until(lambda: not bench.children())
    assert bench.ended(bench.run({"stages": WRITES})).state is RunState.SUCCEEDED
    assert worker.poll() is None
