"""What more workers bring: the same runs by one, two, … on a machine each, with PostgreSQL and an S3 server in common.

    python -m tests.benchmarks.workers                    1 and 2 workers
    python -m tests.benchmarks.workers --workers 1 2 4

All run on this machine here, so that no more of them than it has cores can help.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

from tests.api_client import Api
from tests.machines import machines
from webapp.samples import CHECKPOINT, DATASET

RUNS = 12
TRAINED = {
    "version": 2,
    "steps": [
        {"technique": "magnitude_pruning", "settings": {"sparsity": 0.5}},
        {"technique": "distillation", "settings": {"epochs": 4}},
        {"technique": "weight_quantization", "settings": {"bits": 8}},
    ],
}
QUICK = {"queue_poll_seconds": "0.2", "heartbeat_seconds": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=RUNS)
    asked = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    print(f"{os.cpu_count()} cores of {platform.machine()}; {asked.runs} runs of the digits: prune, distil, 8 bits\n")
    print("| workers | s | runs a minute | × one |")
    print("| ---: | ---: | ---: | ---: |")
    first = None
    for count in asked.workers:
        with tempfile.TemporaryDirectory() as folder:
            seconds = taken(Path(folder, "machines"), count, asked.runs)
        first = first or seconds
        print(f"| {count} | {seconds:.1f} | {asked.runs * 60 / seconds:.1f} | {first / seconds:.2f} |", flush=True)


def taken(folder: Path, count: int, runs: int) -> float:
    """Seconds from the first request to the end of the last run. Each worker has done one before."""
    with machines(folder, (0,) * count, **QUICK) as cluster:
        api = Api(cluster.served.url)
        for machine in cluster.machines:
            machine.start_worker()
        checkpoint, dataset = api.upload("checkpoints", CHECKPOINT)["id"], api.upload("datasets", DATASET)["id"]

        def done(seeds: range) -> float:
            begun = time.perf_counter()
            ids = [api.run(checkpoint, TRAINED, dataset, seed=seed)["id"] for seed in seeds]
            states = [api.finished(id_, 1800)["state"] for id_ in ids]
            assert states == ["succeeded"] * len(ids), states
            return time.perf_counter() - begun

        done(range(1000, 1000 + 2 * count))
        return done(range(runs))


if __name__ == "__main__":
    main()
