"""A profile is a durable job like a run: by real workers, with scripted work."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.jobs.bench import Bench
from tests.postgresql import fresh_database
from webapp.engine.profiles.facts import Measurement
from webapp.jobs.errors import JobMissing, JobNotRetryable
from webapp.store.models import Profile, Run, RunState


@pytest.fixture(params=["sqlite", "postgresql"])
def any_bench(request, tmp_path):
    settings = {"database_url": fresh_database()} if request.param == "postgresql" else {}
    bench = Bench(tmp_path, "tests.jobs.scripted_worker", **settings)
    yield bench
    bench.close()


def begun(ledger):
    return len([line for line in ledger.read_text().splitlines() if line.startswith("start")]) if ledger.exists() else 0


def scratch(bench):
    return [path for path in bench.settings.work.glob("scratch/*/*") if path.is_file()]


def test_it_tells_how_far_it_is_and_what_it_found(any_bench, tmp_path):
    bench = any_bench
    bench.start_worker()
    script = [["progress", 0.25], ["wait_for", str(tmp_path / "more")], ["progress", 0.75]]
    id_ = bench.profile(*script, ["wait_for", str(tmp_path / "go")], seed=3)
    row = bench.until(lambda: (found := bench.get(Profile, id_)).progress and found)
    assert (row.state, row.progress, row.message, row.facts) == (RunState.RUNNING, 0.25, "at 0.25", None)
    assert row.seconds_left is None  # the first quarter may have been there from an earlier attempt
    (tmp_path / "more").touch()
    row = bench.until(lambda: (found := bench.get(Profile, id_)).progress > 0.5 and found)
    assert row.seconds_left > 0
    (tmp_path / "go").touch()
    row = bench.ended(id_, Profile)
    assert (row.state, row.error, row.message, row.seconds_left) == (RunState.SUCCEEDED, None, "Done", None)
    assert row.facts == {"seed": 3, "of": "c"}


def test_what_the_engine_says_against_it_is_its_error(bench):
    bench.start_worker()
    row = bench.ended(bench.profile(["refuse", "It has no training split."]), Profile)
    assert row.state is RunState.FAILED
    assert row.error == {"code": "recipe_invalid", "message": "It has no training split.", "field": "steps.0"}
    assert bench.ended(bench.profile(["exit", 9]), Profile).error["code"] == "child_died"


def test_it_has_the_limits_of_a_run(tmp_path):
    bench = Bench(tmp_path, "tests.jobs.scripted_worker", run_memory_limit_bytes=str(300 << 20))
    try:
        bench.start_worker()
        assert bench.ended(bench.profile(["allocate", 10**10]), Profile).error["code"] == "out_of_memory"
    finally:
        bench.close()


def test_cancelling_kills_the_child_and_a_retry_goes_on_with_what_it_kept(bench, tmp_path):
    bench.start_worker()
    id_ = bench.profile(["remember", None], ["wait_for", str(tmp_path / "go")])
    bench.until(lambda: scratch(bench))
    bench.jobs.cancel_profile(id_)
    assert bench.get(Profile, id_).state is RunState.CANCELLED
    bench.until(lambda: not bench.children())
    assert scratch(bench)
    (tmp_path / "go").touch()
    bench.jobs.retry_profile(id_)
    row = bench.ended(id_, Profile)
    assert (row.state, row.attempt) == (RunState.SUCCEEDED, 2)
    bench.until(lambda: not scratch(bench))
    with pytest.raises(JobNotRetryable, match="has succeeded"):
        bench.jobs.retry_profile(id_)
    assert "Traceback" not in bench.said(), "a cancel is no error"


def test_a_killed_worker_s_profile_is_gone_on_with(any_bench, tmp_path):
    bench, ledger = any_bench, tmp_path / "ledger"
    worker = bench.start_worker()
    id_ = bench.profile(["remember", None], ["wait_for", str(tmp_path / "go")], ledger=ledger)
    bench.until(lambda: scratch(bench))
    bench.end(worker)
    (tmp_path / "go").touch()
    bench.start_worker()
    assert bench.ended(id_, Profile).state is RunState.SUCCEEDED
    assert begun(ledger) == 2
    bench.until(lambda: not scratch(bench))


def test_one_that_no_queue_knows_is_queued_and_one_that_is_gone_is_left_alone(bench):
    bench.start_worker()
    lost = bench.profile(queue=False, created_at=datetime.now(UTC) - timedelta(minutes=5))
    deleted = bench.profile(["sleep", 600])
    bench.until(lambda: bench.get(Profile, deleted).state is RunState.RUNNING)
    with bench.sessions.begin() as session:
        session.delete(session.get(Profile, deleted))
    assert bench.ended(lost, Profile).state is RunState.SUCCEEDED
    bench.until(lambda: not bench.children())
    with pytest.raises(JobMissing, match="There is no profile"):
        bench.jobs.enqueue_profile(deleted)


def test_a_run_that_it_foretold_joins_its_measurements_once(bench):
    bench.start_worker()
    earlier = {"predicted": {}, "loss": 1.0, "points": None, "size_bytes": 9, "run_id": "gone"}
    profile = bench.profile(queue=False, state=RunState.SUCCEEDED, measured=[earlier])
    expected = {"profile_id": profile, "size_bytes": 2, "loss": {"unit": "nats"}, "predicted": {"Pruning": 0.25}}
    run = bench.run({"stages": {"a": [["write", "a"]], "export-onnx": [["refuse", "no"]]}}, expected=expected)
    measured = Measurement(predicted={"Pruning": 0.25}, loss=0.5, size_bytes=1, run_id=run).model_dump(mode="json")
    assert bench.ended(run).state is RunState.SUCCEEDED
    assert bench.get(Profile, profile).measured == [earlier, measured]
    bench.jobs.retry_run(run)
    bench.until(lambda: bench.get(Run, run).state.final)
    assert bench.get(Profile, profile).measured == [earlier, measured]
    lost = bench.run({"stages": {"a": [["write", "a"]]}}, expected=expected | {"profile_id": "gone"})
    assert bench.ended(lost).state is RunState.SUCCEEDED


def test_a_worker_computes_one_run_or_profile_at_a_time(bench, tmp_path):
    bench.start_worker()
    profile = bench.profile(["wait_for", str(tmp_path / "go")])
    bench.until(bench.children)
    run = bench.run({"stages": {"a": [["write", "a"]]}})
    other = bench.profile()
    assert bench.get(Run, run).state is bench.get(Profile, other).state is RunState.QUEUED
    (tmp_path / "go").touch()
    assert bench.ended(run).state is RunState.SUCCEEDED
    assert {bench.ended(id_, Profile).state for id_ in (profile, other)} == {RunState.SUCCEEDED}
