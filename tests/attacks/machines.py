"""Three machines with nothing in common but database and object store; workers are killed and added at random."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from sqlalchemy import func, select, text

from tests.api_client import Api
from tests.attacks.kills import made, over
from tests.jobs.test_kill import samples, weights
from tests.machines import Machines, machines
from webapp.samples import CHECKPOINT, DATASET
from webapp.store.digests import named_digests, sweep
from webapp.store.models import LogLine, Run, Stage, Worker

CLOCKS = (0, 300, 0)  # seconds ahead
STALE_SECONDS, SLACK_SECONDS = 6.0, 12.0  # after which a worker counts as dead, and what a busy machine may add
QUICK = {
    "heartbeat_seconds": "0.5",
    "worker_stale_seconds": str(STALE_SECONDS),
    "sweep_interval_seconds": "5",
    "sweep_age_seconds": "330",  # half a minute on the machine whose clock is ahead
    "queue_poll_seconds": "0.2",
    "progress_interval_seconds": "0.1",
}
FEWEST, MOST = 2, 4  # workers that live
ENDED_WITHIN_SECONDS = 1800.0


def main(folder: Path, say: Callable[[str], None] = print, runs: int = 200, seed: int = 0, study: bool = True) -> None:
    with machines(folder, CLOCKS, **QUICK) as cluster:
        begun, api, chaos = time.monotonic(), Api(cluster.served.url), Chaos(cluster, random.Random(seed))
        for machine in cluster.machines:
            machine.start_worker()
        given = [api.upload("checkpoints", written(folder, "net.safetensors", weights()))["id"]]
        given.append(api.upload("datasets", written(folder, "data.npz", samples()))["id"])
        profile = profiled(api) if study else None
        asked: dict[str, list[str]] = defaultdict(list)
        for number in range(runs):
            recipe, dataset = request(number)
            row = api.run(given[0], recipe, given[1] if dataset else None, f"run {number}", seed=number)
            asked[f"{recipe} {dataset}"].append(row["id"])
        if profile:
            question = {"loss": 0.05, "most_runs": 6, "most_minutes": 30}
            study_id = api.post("/studies", {"profile_id": profile, "smallest": question})["id"]
        waiting = {id_ for ids in asked.values() for id_ in ids}
        ended: dict[str, dict[str, Any]] = {}
        while waiting:
            assert time.monotonic() - begun < ENDED_WITHIN_SECONDS, f"{len(waiting)} runs have not ended"
            chaos.go_on()
            for id_ in list(waiting)[:20]:
                if over(row := api.get(f"/runs/{id_}")):
                    ended[id_] = row
                    waiting.discard(id_)
        if profile:
            found = api.wait(f"/studies/{study_id}", lambda row: row["state"] not in ("queued", "running"))
            assert found["state"] == "succeeded", found["error"]
        for ids in asked.values():
            files = [made(ended[id_]) for id_ in ids]
            assert files[0], "a run delivered nothing"
            assert all(each == files[0] for each in files), "equal requests made different files"
        chaos.assert_taken_over()
        seconds = time.monotonic() - begun
        done = assert_each_was_done_once(cluster, runs, chaos.killed)
        drafts = assert_nothing_half_done(cluster)
        said = cluster.said()
        assert "Traceback" not in said, said[said.index("Traceback") - 300 :][:3000]
        within = max(chaos.taken_within, default=0.0)
        say(
            f"{done} runs on {len(CLOCKS)} machines, one {max(CLOCKS)} s ahead, in {seconds:.0f} s: {chaos.killed} "
            f"workers killed, {chaos.added} added; 0 lost, 0 doubled, equal requests equal files; what the killed were "
            f"at was taken over within {within:.1f} s; the {drafts} drafts that they left were swept"
        )


def request(number: int) -> tuple[dict[str, Any], bool]:
    """One of twelve recipes, half of them measured on data."""
    kind = number % 12
    prune = {"technique": "magnitude_pruning", "settings": {"sparsity": (0.3, 0.5, 0.7)[kind % 3]}}
    store = {"technique": "weight_quantization", "settings": {"bits": (8, 4)[kind // 3 % 2]}}
    return {"version": 2, "steps": [prune, store]}, kind >= 6


def profiled(api: Api) -> str:
    checkpoint, dataset = api.upload("checkpoints", CHECKPOINT)["id"], api.upload("datasets", DATASET)["id"]
    profile = api.post("/profiles", {"checkpoint_id": checkpoint, "dataset_id": dataset})["id"]
    row = api.wait(f"/profiles/{profile}", lambda row: row["state"] not in ("queued", "running"))
    assert row["state"] == "succeeded", row["error"]
    return str(profile)


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@dataclass
class Chaos:
    cluster: Machines
    chance: random.Random
    killed: int = 0
    added: int = 0
    taken_within: list[float] = field(default_factory=list)  # seconds from a kill until others had the work
    _held: dict[tuple[str, str], float] = field(default_factory=dict)  # (workflow, dead worker): since when
    _next: float = 0.0

    def go_on(self) -> None:
        """Kills or adds a worker now and then, and looks what became of the work of the killed."""
        self._look()
        if time.monotonic() > self._next:
            self._next = time.monotonic() + self.chance.uniform(3.0, 9.0)
            alive = self.cluster.alive
            if len(alive) <= FEWEST or (len(alive) < MOST and self.chance.random() < 0.5):
                self.chance.choice(self.cluster.machines).start_worker()
                self.added += 1
            else:
                self._kill(self.chance.choice(alive).pid)
        time.sleep(0.2)

    def assert_taken_over(self) -> None:
        until = time.monotonic() + STALE_SECONDS + SLACK_SECONDS
        while self._held and time.monotonic() < until:
            self._look()
            time.sleep(0.2)
        late = [seconds for seconds in self.taken_within if seconds > STALE_SECONDS + SLACK_SECONDS]
        assert not late, f"work of killed workers was taken over after {late} s"
        assert not self._held, "work of killed workers was not taken over"

    def _kill(self, process_id: int) -> None:
        os.kill(process_id, signal.SIGKILL)
        self.killed += 1
        with self.cluster.sessions() as session:
            worker = session.scalar(select(Worker.executor_id).where(Worker.pid == process_id))
            if worker is not None:
                self._held |= {(workflow, worker): time.monotonic() for workflow in pending(session, worker)}

    def _look(self) -> None:
        with self.cluster.sessions() as session:
            for (workflow, worker), since in list(self._held.items()):
                if workflow not in pending(session, worker) or self._lives(session, worker):
                    self.taken_within.append(time.monotonic() - since)
                    del self._held[workflow, worker]

    def _lives(self, session: Any, worker: str) -> bool:
        """Whether one of the same name was started since."""
        process_id = session.scalar(select(Worker.pid).where(Worker.executor_id == worker))
        return process_id in {worker.pid for worker in self.cluster.alive}


def pending(session: Any, worker: str) -> list[str]:
    """The workflows that the worker is at, as the job system has it."""
    query = "SELECT workflow_uuid FROM dbos.workflow_status WHERE status = 'PENDING' AND executor_id = :worker"
    return [row[0] for row in session.execute(text(query), {"worker": worker})]


def assert_each_was_done_once(cluster: Machines, runs: int, killed: int) -> int:
    with cluster.sessions() as session:
        states = Counter(str(state) for state in session.scalars(select(Run.state)))
        assert set(states) == {"succeeded"}, [run.error for run in session.scalars(select(Run)) if run.error]
        assert states["succeeded"] >= runs
        assert set(session.scalars(select(Run.attempt))) == {1}
        query = "SELECT status, count(*) FROM dbos.workflow_status WHERE name = 'pare_run' GROUP BY status"
        workflows = {row.status: row.count for row in session.execute(text(query))}
        assert workflows == {"SUCCESS": states["succeeded"]}, f"the job system has {workflows}"
        begun = select(Stage.id, func.count(LogLine.id)).join(
            LogLine, (LogLine.run_id == Stage.run_id) & (LogLine.stage == Stage.name) & (LogLine.text == Stage.title)
        )
        again = sum(count - 1 for _, count in session.execute(begun.group_by(Stage.id)))
    assert again <= killed, f"{again} stages were begun again, and {killed} workers were killed"
    return states["succeeded"]


def assert_nothing_half_done(cluster: Machines) -> int:
    """How many drafts were there, once every machine has a worker that keeps house, and that has ended."""
    for machine in cluster.machines:
        if not machine.alive:
            machine.start_worker()
    time.sleep(float(QUICK["sweep_interval_seconds"]) * 2 + 5)
    for machine in cluster.machines:
        machine.end()
        assert not machine.left_behind(), f"{machine.folder.name} keeps {machine.left_behind()[:5]}"
    files = cluster.files
    drafts = len(listed(cluster, "drafts"))
    with cluster.sessions() as session:
        sweep(session, files, 0.0)
        named = named_digests(session)
    assert not listed(cluster, "drafts")
    assert set(listed(cluster, "objects")) == named, "the store has other objects than the rows name"
    for digest in named:
        with files.open(digest) as content:
            assert hashlib.file_digest(content, "sha256").hexdigest() == digest
    return drafts


def listed(cluster: Machines, folder: str) -> list[str]:
    """The names in this folder of the store."""
    store, root = url_to_fs(cluster.files_url, use_listings_cache=False)
    return [str(path).rsplit("/", 1)[-1] for path in store.find(f"{root}/{folder}")]
