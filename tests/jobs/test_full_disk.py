"""A run whose worker can write nothing down for a while is not lost under a living worker: it goes on, or fails."""

from types import SimpleNamespace

import pytest

from tests.jobs.bench import Bench
from tests.small_disk import filled, small_disk
from webapp.jobs import recovery
from webapp.jobs.heartbeat import Heartbeat
from webapp.jobs.recovery import SETTLE, take_over
from webapp.store.models import Run, RunState, StageState


@pytest.mark.slow
def test_a_run_survives_a_disk_that_is_full_for_longer_than_is_tried(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        bench = Bench(disk / "instance", "tests.jobs.scripted_worker", min_free_bytes="0")
        bench.log.close()
        bench.log = (log := tmp_path / "workers.log").open("ab")  # elsewhere: it tells what to wait for
        try:
            bench.start_worker()
            go = tmp_path / "go"
            script = {"a": [["write", "a"]], "b": [["wait_for", str(go)], ["write", "b"]], "c": [["write", "c"]]}
            run_id = bench.run({"stages": script})
            bench.until(lambda: [stage.state for stage in bench.get(Run, run_id).stages][1:2] == [StageState.RUNNING])
            with filled(disk):
                go.touch()
                bench.until(lambda: "exceeded its maximum" in log.read_text())
            run = bench.ended(run_id)
            assert run.state is RunState.SUCCEEDED or run.error["code"] == "disk_full"
        finally:
            bench.close()


def test_a_workflow_that_its_worker_is_not_at_is_taken_up_again(bench, monkeypatch):
    """One that is in hand is not, nor one that may just have begun, nor that of another worker that lives."""
    place = SimpleNamespace(settings=bench.settings, executor_id="me", sessions=bench.sessions)
    for name in ("me", "other"):
        Heartbeat(bench.sessions, name).start()
    workflows = [
        SimpleNamespace(workflow_id=id_, executor_id=executor, name="pare_run", queue_name="runs")
        for id_, executor in (("at-it-1", "me"), ("lost-1", "me"), ("others-1", "other"))
    ]
    resumed = []
    monkeypatch.setattr(recovery.DBOS, "list_workflows", lambda **asked: workflows)
    monkeypatch.setattr(recovery.DBOS, "list_queues", list)
    monkeypatch.setattr(recovery.DBOS, "resume_workflow", lambda id_, queue_name: resumed.append((id_, queue_name)))
    monkeypatch.setattr(recovery, "in_hand", lambda: {"at-it-1"})
    clock = SimpleNamespace(monotonic=lambda: 1000.0)
    monkeypatch.setattr(recovery, "time", clock)

    missed = take_over(place, {})
    assert (missed, resumed) == ({"lost-1": 1000.0}, [])
    clock.monotonic = lambda: 1001.0 + SETTLE.total_seconds()
    assert take_over(place, missed) == {}
    assert resumed == [("lost-1", "runs")]
