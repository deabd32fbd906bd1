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
EVERY_SECONDS = (0.5, 2.5)
ENDED_WITHIN_SECONDS = 900.0
QUICK = {"heartbeat_seconds": "0.5", "worker_stale_seconds": "6", "threads_per_child": "1"}
Answer = TypeVar("Answer")


def main(folder: Path, say: Callable[[str], None] = print, seed: int = 0) -> None:
    with serving(folder / "undisturbed", **QUICK) as served:
        expected = [made(run) for run in ended(Api(served.url), started(Api(served.url)))]
    chance, killed = random.Random(seed), Counter()
    with serving(folder / "disturbed", workers="2", **QUICK) as served:
        api = Api(served.url)
        ids = started(api)
        while sum(killed.values()) < KILLS and not all(map(over, looked_at(api, ids))):
            time.sleep(chance.uniform(*EVERY_SECONDS))
            victims = list(victims_of(served.pid))
            with suppress(psutil.Error):
                name, process = chance.choice(victims)
                process.kill()
                killed[name] += 1
        begun = time.monotonic()
        runs = ended(api, ids)
    states = Counter(run["state"] for run in runs)
    assert states == {"succeeded": RUNS}, [run["error"] for run in runs if run["error"]]
    assert [made(run) for run in runs] == expected, "a run that was disturbed made other files"
    say(
        f"{sum(killed.values())} kills ({', '.join(f'{count} of a {name}' for name, count in killed.items())}): "
        f"{states['succeeded']} of {RUNS} runs succeeded, with the bytes of undisturbed ones, "
        f"{time.monotonic() - begun:.0f} s after the last"
    )


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
