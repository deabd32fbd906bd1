"""Workers, computing processes and the web server killed at random: every run ends with the files that it should."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tests.api_client import Api
from tests.jobs.test_kill import STAGES, RealBench, killed_at, training_cut_short
from tests.pare_process import serving
from webapp.samples import CHECKPOINT, DATASET

RUNS, KILLS = 6, 24
STUDY_RUNS, STUDY_KILLS = 60, 20
EVERY_SECONDS = (0.5, 2.5)
ENDED_WITHIN_SECONDS = 900.0
QUICK = {"heartbeat_seconds": "0.5", "worker_stale_seconds": "6", "threads_per_child": "1"}
Answer = TypeVar("Answer")


def main(folder: Path, say: Callable[[str], None] = print, seed: int = 0) -> None:
    with serving(folder / "undisturbed", **QUICK) as served:
        expected = [made(run) for run in ended(Api(served.url), started(Api(served.url)))]
    with serving(folder / "disturbed", workers="2", **QUICK) as served:
        api = Api(served.url)
        ids = started(api)
        killed = kill(served.pid, KILLS, EVERY_SECONDS, lambda: all(map(over, looked_at(api, ids))), seed)
        begun = time.monotonic()
        runs = ended(api, ids)
    states = Counter(run["state"] for run in runs)
    assert states == {"succeeded": RUNS}, [run["error"] for run in runs if run["error"]]
    assert [made(run) for run in runs] == expected, "a run that was disturbed made other files"
    say(
        f"{told(killed)}: {states['succeeded']} of {RUNS} runs succeeded, with the bytes of undisturbed ones, "
        f"{time.monotonic() - begun:.0f} s after the last"
    )


def of_a_study(folder: Path, say: Callable[[str], None] = print, seed: int = 0) -> None:
    """A sweep of 60 runs on two workers."""
    with serving(folder / "undisturbed", workers="2", **QUICK) as served:
        api, begun = Api(served.url), time.monotonic()
        study = study_ended(api, study_started(api))
        expected, alone = made_by(api, study), time.monotonic() - begun
    with serving(folder / "disturbed", workers="2", **QUICK) as served:
        api, begun = Api(served.url), time.monotonic()
        id_ = study_started(api)
        every = (alone / STUDY_KILLS / 3, alone / STUDY_KILLS)  # over most of the time that it takes by itself
        killed = kill(served.pid, STUDY_KILLS, every, lambda: over(patiently(lambda: api.get(f"/studies/{id_}"))), seed)
        study = study_ended(api, id_)
        found = made_by(api, study)
    assert sum(killed.values()) == STUDY_KILLS, f"the study ended after {told(killed)}"
    states = Counter(run["state"] for run in study["runs"])
    assert states == {"succeeded": STUDY_RUNS}, states
    assert found == expected, "a study that was disturbed made other files"
    say(
        f"{told(killed)}: the study of {STUDY_RUNS} runs ended complete, with the bytes of the undisturbed one, in "
        f"{time.monotonic() - begun:.0f} s; undisturbed in {alone:.0f} s"
    )


def study_started(api: Api) -> str:
    checkpoint = patiently(lambda: api.upload("checkpoints", CHECKPOINT))["id"]
    dataset = patiently(lambda: api.upload("datasets", DATASET))["id"]
    prune = {"technique": "magnitude_pruning", "settings": {"sparsity": "0.05..0.5 step 0.05"}}
    quantize = {"technique": "weight_quantization", "settings": {"bits": [2, 3, 4, 5, 6, 8]}}
    recipe = {"version": 2, "steps": [prune, quantize]}
    asked = {"sweep": {"checkpoint_id": checkpoint, "dataset_id": dataset, "recipe": recipe}}
    return patiently(lambda: api.post("/studies", asked))["id"]


def study_ended(api: Api, id: str) -> dict[str, Any]:
    until = time.monotonic() + ENDED_WITHIN_SECONDS
    while not over(study := patiently(lambda: api.get(f"/studies/{id}"))):
        assert time.monotonic() < until, Counter(run["state"] for run in study["runs"])
        time.sleep(0.5)
    return study


def made_by(api: Api, study: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The digests of each run's files, by what the run is in the study."""
    return {run["title"]: made(patiently(lambda run=run: api.get(f"/runs/{run['id']}"))) for run in study["runs"]}


def kill(pid: int, most: int, every: tuple[float, float], done: Callable[[], bool], seed: int) -> Counter[str]:
    """Kills processes of an installation at random until it was `most` times, or until nothing is left to disturb."""
    chance, killed = random.Random(seed), Counter[str]()
    while sum(killed.values()) < most and not done():
        time.sleep(chance.uniform(*every))
        victims = list(victims_of(pid))
        with suppress(psutil.Error):
            name, process = chance.choice(victims)
            process.kill()
            killed[name] += 1
    return killed


def told(killed: Counter[str]) -> str:
    kinds = ", ".join(f"{count} of a {name}" for name, count in killed.items())
    return f"{sum(killed.values())} kills ({kinds})"


def at_every_stage(folder: Path) -> None:
    benches = [RealBench(folder / name) for name in ("disturbed", "undisturbed")]
    try:
        killed_at(*benches, *STAGES)
        training_cut_short(*benches, "child", "worker", "cancel")
    finally:
        for bench in benches:
            bench.close()


def started(api: Api) -> list[str]:
    checkpoint = patiently(lambda: api.upload("checkpoints", CHECKPOINT))["id"]
    dataset = patiently(lambda: api.upload("datasets", DATASET))["id"]
    prune = {"technique": "wanda", "settings": {"sparsity": 0.5}}
    distil = {"technique": "distillation", "settings": {"epochs": 4}}
    recipe = {"version": 1, "steps": [prune, distil, {"technique": "weight_quantization", "settings": {"bits": 8}}]}
    return [patiently(lambda n=n: api.run(checkpoint, recipe, dataset, f"run {n}", seed=n))["id"] for n in range(RUNS)]


def ended(api: Api, ids: list[str]) -> list[dict[str, Any]]:
    until = time.monotonic() + ENDED_WITHIN_SECONDS
    runs = looked_at(api, ids)
    while not all(map(over, runs)):
        assert time.monotonic() < until, [(run["id"], run["state"], run["message"]) for run in runs]
        time.sleep(0.5)
        runs = looked_at(api, ids)
    return runs


def looked_at(api: Api, ids: list[str]) -> list[dict[str, Any]]:
    return [patiently(lambda id=id: api.get(f"/runs/{id}")) for id in ids]


def over(run: dict[str, Any]) -> bool:
    return run["state"] in ("succeeded", "failed", "cancelled")


def made(run: dict[str, Any]) -> dict[str, str]:
    return {artifact["name"]: artifact["digest"] for artifact in run["artifacts"]}


def patiently(ask: Callable[[], Answer], seconds: float = 120.0) -> Answer:
    """Asks again while the web server is being started anew."""
    until = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except (OSError, HTTPException):
            if time.monotonic() > until:
                raise
        time.sleep(0.2)


def victims_of(pid: int) -> Iterator[tuple[str, psutil.Process]]:
    """The processes of an installation below `serve`, with what each is."""
    with suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                words = " ".join(process.cmdline())
                if "create_app" in words:
                    yield "web server", process
                elif "webapp.cli worker" in words:
                    yield "worker", process
                elif "fork_server" in words:
                    yield "computing process", process
