"""Several machines share a database and an object store: whose clock counts, whose cores, and what an outage costs."""

import os
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.attacks import machines
from tests.jobs.bench import Bench
from tests.object_store import object_store
from tests.postgresql import fresh_database
from webapp.config import InstallationSettings, cores
from webapp.jobs import heartbeat
from webapp.jobs.heartbeat import Heartbeat, bury, living, neighbours
from webapp.jobs.worker import WorkerSlot, remove_leftovers
from webapp.store import clock
from webapp.store.database import make_engine, make_sessions, upgrade
from webapp.store.models import Checkpoint, RunState


@pytest.fixture
def sessions():
    engine = make_engine(fresh_database())
    upgrade(engine)
    yield make_sessions(engine)
    engine.dispose()


@pytest.mark.parametrize("ahead_seconds", [300, -300])
def test_a_worker_with_a_wrong_clock_takes_nobody_for_dead_and_is_not_taken_for_dead(
    sessions, monkeypatch, ahead_seconds
):
    Heartbeat(sessions, "right").start()
    put_wrong(monkeypatch, ahead_seconds)
    wrong = Heartbeat(sessions, "wrong")
    wrong.start()
    assert wrong.beat()
    with sessions.begin() as session:
        assert bury(session, 30, "wrong") == []
        assert bury(session, 30, "right") == []
        assert living(session) == {"right", "wrong"}


@pytest.mark.parametrize("ahead_seconds", [300, -300])
def test_what_a_machine_with_a_wrong_clock_writes_down_is_the_databases_time(sessions, monkeypatch, ahead_seconds):
    put_wrong(monkeypatch, ahead_seconds)
    sessions.kw["bind"].dispose()  # a new connection asks
    with sessions.begin() as session:
        row = Checkpoint(name="c", filename="c", size_bytes=1, digest="0" * 64)
        session.add(row)
        session.flush()
        assert abs((clock.clock(session) - row.created_at).total_seconds()) < 5
    assert abs((clock.now() - datetime.now(UTC)).total_seconds()) < 5


def put_wrong(monkeypatch, ahead_seconds):
    """This machine's clock, until the test ends. What a database had told before is forgotten."""

    class Wrong(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime.now(zone) + timedelta(seconds=ahead_seconds)

    monkeypatch.setattr(clock, "datetime", Wrong)
    monkeypatch.setattr(clock, "_told", None)


def test_workers_on_one_machine_share_its_cores(sessions, tmp_path, monkeypatch):
    for name in ("one", "two"):
        Heartbeat(sessions, name).start()
    monkeypatch.setattr(heartbeat.socket, "gethostname", lambda: "elsewhere")
    Heartbeat(sessions, "three").start()
    monkeypatch.undo()
    with sessions() as session:
        assert neighbours(session) == 2
    assert InstallationSettings.load(tmp_path).threads(2) == max(1, cores() // 2)
    assert InstallationSettings.load(tmp_path, threads_per_child=3).threads(2) == 3


@pytest.mark.parametrize(("said", "fewer"), [("1", True), ("", False), ("0", False)])
def test_fewer_cores_are_used_where_the_environment_says_so(monkeypatch, said, fewer):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert cores() == (1 if fewer else 4)


@pytest.mark.slow
def test_an_object_store_that_is_away_delays_a_run_and_fails_none(tmp_path):
    bucket = object_store().bucket(uuid4().hex)
    bench = Bench(tmp_path, "tests.jobs.scripted_worker", database_url=fresh_database(), files_url=bucket)
    try:
        bench.start_worker()
        stages = {
            "a": [["write", "a"]],
            "b": [["wait_for", str(tmp_path / "go")], ["write", "b"]],
            "c": [["write", "c"]],
        }
        first, queued = (bench.run({"stages": stages | {"c": [["write", name]]}}) for name in ("first", "queued"))
        bench.until(lambda: any("Stage b" in line for line in bench.lines(first)))
        object_store().stop()
        (tmp_path / "go").touch()
        bench.until(lambda: "Asked again" in (tmp_path / "workers.log").read_text())
        object_store().start()
        assert [bench.ended(id).state for id in (first, queued)] == [RunState.SUCCEEDED] * 2
    finally:
        bench.close()


@pytest.mark.slow
def test_workers_that_are_killed_on_three_machines_lose_and_double_nothing(tmp_path):
    machines.main(tmp_path / "machines", runs=24, study=False)


def test_what_a_killed_worker_left_is_removed_by_any_other_of_its_machine(tmp_path):
    settings = InstallationSettings.load(tmp_path)
    mine, other = WorkerSlot.claim(settings), WorkerSlot.claim(settings)
    before = f"an-earlier-name-{other.executor_id.rpartition('-')[2]}"  # as containers get one each time
    for name in (mine.executor_id, other.executor_id, before, "scratch", "uploads"):
        (settings.work / name).mkdir(parents=True)
    remove_leftovers(settings)
    assert {path.name for path in settings.work.iterdir()} == {
        mine.executor_id,
        other.executor_id,
        "scratch",
        "uploads",
    }
    other.release()
    remove_leftovers(settings)
    assert {path.name for path in settings.work.iterdir()} == {mine.executor_id, "scratch", "uploads"}
    mine.release()
