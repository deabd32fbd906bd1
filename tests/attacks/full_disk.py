"""A disk that fills up and is emptied again while runs go on: pages answer, no run hangs, all can be retried."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from tests.api_client import Api, Refused
from tests.attacks.kills import QUICK, RUNS, ended, looked_at, made, over, patiently, started
from tests.pare_process import serving
from tests.small_disk import filled, small_disk

MEGABYTES, TIMES, FULL_SECONDS = 200, 4, 6.0
PAGES = ("/healthz", "/", "/runs", "/api/v1/runs")


def main(folder: Path, say: Callable[[str], None] = print) -> None:
    with small_disk(folder, MEGABYTES) as disk, serving(disk / "instance", min_free_bytes="1000000", **QUICK) as served:
        api, answers, refusals = Api(served.url), Counter[int](), Counter[str]()
        ids = started(api)
        for _ in range(TIMES):
            time.sleep(2)
            with filled(disk):
                until = time.monotonic() + FULL_SECONDS
                while time.monotonic() < until:
                    answers.update(status(served.url + page) for page in PAGES)
                    try:
                        api.send("PUT", "/checkpoints?name=more.safetensors", b"x" * 100_000)
                    except Refused as refusal:
                        refusals[refusal.error["code"]] += 1
                    time.sleep(0.5)
        runs = ended(api, ids)
        states = Counter(run["state"] for run in runs)
        failed = [run for run in runs if run["state"] == "failed"]
        codes = Counter(run["error"]["code"] for run in failed)
        assert set(answers) <= {200, 503, 507}, f"pages were answered with {dict(answers)}"
        assert set(refusals) == {"disk_full"}, f"uploads were refused with {dict(refusals)}"
        assert set(codes) <= {"disk_full"}, f"runs failed with {dict(codes)}"
        while again := [run["id"] for run in looked_at(api, ids) if run["state"] == "failed"]:
            for id_ in again:
                patiently(lambda id_=id_: api.post(f"/runs/{id_}/retry"))
            ended(api, ids)
        assert all(over(run) and made(run) for run in looked_at(api, ids))
        say(
            f"full {TIMES} times for {FULL_SECONDS:.0f} s: {states['succeeded']} of {RUNS} runs went on, {len(failed)} "
            f"failed and succeeded at Retry; pages answered {dict(answers)}, {refusals.total()} uploads were refused"
        )


def status(url: str) -> int:
    try:
        with urlopen(url, timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
