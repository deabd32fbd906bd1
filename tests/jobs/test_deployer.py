"""The deployer makes real processes equal to the rows: started, healed, stopped, and none left behind."""

import os
import signal
import time
from datetime import timedelta

import psutil
import pytest

from tests.jobs.bench import Bench
from tests.patience import until
from tests.serving import small_models
from tests.serving.seeded_deployment import ROWS, seed_onnx_run
from webapp.jobs.processes import is_running
from webapp.serving.client import state_of
from webapp.store.clock import now
from webapp.store.models import Deployment, DeploymentState

READY, STARTING, STOPPED, FAILED = (
    DeploymentState.READY,
    DeploymentState.STARTING,
    DeploymentState.STOPPED,
    DeploymentState.FAILED,
)


class Deployments:
    """An installation with a deployer, and a run to deploy."""

    def __init__(self, bench: Bench, folder) -> None:
        self.bench, self.folder = bench, folder

    def deploy(self, content: bytes | None = None, **more) -> str:
        made = small_models.classifier(self.folder / f"made-{time.monotonic_ns()}")
        if content is not None:
            (made / "model.onnx").write_bytes(content)
        with self.bench.sessions() as session:
            run = seed_onnx_run(session, self.bench.files, made, "rows", **ROWS)
            about = {"architecture": run.checkpoint.facts["architecture"], "classes": None, "preprocessing": None}
            row = Deployment(
                name=f"rows-{run.id}",
                run_id=run.id,
                stage="export-onnx",
                artifact="model.onnx",
                about=about,
                token_hash="0" * 64,
                machine=self.bench.settings.machine,
                **more,
            )
            session.add(row)
            session.commit()
        return row.id

    def row(self, id: str) -> Deployment:
        with self.bench.sessions() as session:
            return session.get(Deployment, id)

    def change(self, id: str, **values) -> None:
        with self.bench.sessions.begin() as session:
            row = session.get(Deployment, id)
            for name, value in values.items():
                setattr(row, name, value)

    def until(self, id: str, what) -> Deployment:
        """The row, once `what` is true of it."""
        row = self.row(id)

        def arrived():
            nonlocal row
            row = self.row(id)
            return what(row)

        until(arrived, said=lambda: (row.state, row.reason))
        return row

    def ready(self, id: str) -> Deployment:
        return self.until(id, lambda row: row.state is READY)


@pytest.fixture
def place(tmp_path):
    bench = Bench(tmp_path / "instance", "webapp.cli", "deployer", "--instance")
    yield Deployments(bench, tmp_path)
    for deployer in bench.workers:
        bench.end(deployer, signal.SIGTERM)
    bench.close()


def gone(process_id):
    return until(lambda: not is_running(process_id), said=lambda: f"process {process_id} is still there")


def test_it_starts_heals_and_stops_what_is_deployed(place):
    id = place.deploy()
    deployer = place.bench.start_worker()
    first = place.ready(id)
    assert state_of(first.socket, 5)["signature"] == first.signature
    assert first.signature["inputs"][0]["name"] == "x"
    assert place.until(id, lambda row: row.memory_bytes).memory_bytes > 10_000_000

    os.kill(first.pid, signal.SIGKILL)
    healed = place.until(id, lambda row: row.state is READY and row.pid != first.pid)
    assert healed.deaths == 1

    os.kill(healed.pid, signal.SIGSTOP)  # it hangs, and hears nothing
    place.change(id, wanted=False)
    stopped = place.until(id, lambda row: row.state is STOPPED)
    assert (stopped.pid, stopped.socket) == (None, None)
    assert gone(healed.pid)

    place.change(id, wanted=True, attempt=stopped.attempt + 1)
    again = place.ready(id)
    with place.bench.sessions.begin() as session:
        session.delete(session.get(Deployment, id))
    assert gone(again.pid)
    assert deployer.poll() is None


def test_it_ends_with_its_processes_and_takes_them_up_again(place):
    id = place.deploy()
    killed = place.bench.start_worker()
    before = place.ready(id)
    place.bench.end(killed)
    assert gone(before.pid)

    told = place.bench.start_worker()
    after = place.until(id, lambda row: row.state is READY and row.pid != before.pid)
    assert not os.path.exists(before.socket), "the sockets of an earlier life are removed"
    assert place.bench.end(told, signal.SIGTERM) == 0
    assert not psutil.pid_exists(after.pid)
    assert not os.path.exists(os.path.dirname(after.socket))


def test_a_file_that_cannot_be_served_is_failed_with_the_reason(place):
    id = place.deploy(b"not a model")
    place.bench.start_worker()
    failed = place.until(id, lambda row: row.state is FAILED)
    assert failed.reason.startswith("The model cannot be loaded: ")
    time.sleep(1)
    assert place.row(id).state is FAILED, "it is not tried again and again"


def test_what_nobody_tries_any_more_ends(place):
    id = place.deploy()
    place.change(id, token_hash=None)
    place.bench.start_worker()
    process = place.ready(id).pid
    place.change(id, asked_at=now() - timedelta(hours=1))
    assert gone(process)
    assert place.until(id, lambda row: row is None) is None


def test_another_machines_deployments_are_left_alone(place):
    other, mine = place.deploy(), place.deploy()
    place.change(other, machine="elsewhere")
    place.bench.start_worker()
    place.ready(mine)
    assert place.row(other).state is STARTING
    assert place.row(other).pid is None
