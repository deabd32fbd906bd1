"""What the table of runs costs the server's process: time and bytes of each view, with many runs.

    python -m tests.benchmarks.run_table                    10,000 runs, SQLite
    python -m tests.benchmarks.run_table --runs 50000
    python -m tests.benchmarks.run_table --database postgresql+psycopg://USER:PASSWORD@HOST/EMPTY

One run of the sample is really made, and its row copied with other settings, sizes, metrics and times: receipts have
their real size. Time is that of one request in this process, without the network, and of it what the processor worked;
bytes are those of the answer, and as packed. Each view is asked for --times times, after once that does not count.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from tests.api_client import Api
from tests.pare_process import serving
from webapp import create_app, samples
from webapp.config import InstallationSettings
from webapp.store.clock import now
from webapp.store.database import make_engine, make_sessions, upgrade
from webapp.store.figures import figures_of
from webapp.store.models import Base, Checkpoint, Dataset, Run, RunFigure, RunNote, RunState, RunTag, new_id

PRUNED = {
    "version": 2,
    "steps": [
        {"technique": "magnitude_pruning", "settings": {"sparsity": 0.5}},
        {"technique": "weight_quantization", "settings": {"bits": 8}},
    ],
}
TAGS = ("baseline", "for the paper", "nightly", "wrong", "keep")
AT_ONCE = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--database", help="the URL of an empty database; else SQLite in a temporary folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = real_run(Path(folder, "made"))
        more = {"database_url": asked.database} if asked.database else {}
        settings = InstallationSettings.load(Path(folder, "instance"), min_free_bytes=0, **more)
        engine = make_engine(settings.database_url)
        upgrade(engine)
        with make_sessions(engine)() as session:
            fill(session, made, asked.runs)
            if engine.dialect.name == "postgresql":
                session.execute(text("ANALYZE"))  # as autovacuum does within a minute
                session.commit()
            places = dict(landmarks(session))
        app = create_app({"SETTINGS": settings, "TESTING": True, "WTF_CSRF_ENABLED": False})
        gc.collect()
        gc.freeze()  # as the server does; and what making the rows has left is not the server's
        print(f"{asked.runs:,} runs on {engine.dialect.name}\n")
        print("| view | p50 ms | p95 ms | CPU p95 | kB | packed kB |\n| --- | ---: | ---: | ---: | ---: | ---: |")
        for name, path in views(app.test_client(), places):
            print(measured(app.test_client(), name, path, asked.times), flush=True)
        app.extensions["pare"].jobs.close()
        engine.dispose()


def real_run(instance: Path) -> list[Any]:
    """The rows of a checkpoint, a dataset and a run of the sample, as a real Pare left them."""
    with serving(instance) as served:
        api, ids = Api(served.url), {}
        for path in samples.FILES:
            kind = "checkpoints" if path == samples.CHECKPOINT else "datasets"
            row = next(row for row in api.get(f"/{kind}")["items"] if row["name"] == path.name)
            api.wait(f"/{kind}/{row['id']}", lambda row: row["state"] != "inspecting")
            ids[path.name] = row["id"]
        run = api.finished(api.run(ids[samples.CHECKPOINT.name], PRUNED, ids[samples.DATASET.name])["id"])
        assert run["state"] == "succeeded", run["error"]
    engine = make_engine(f"sqlite:///{instance / 'pare.db'}")
    with make_sessions(engine)() as session:
        row = session.get_one(Run, run["id"])
        found = [values(each) for each in (row.checkpoint, row.dataset, row)]
    engine.dispose()
    return found


def values(row: Base) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in type(row).__mapper__.column_attrs}


def fill(session: Session, made: list[Any], count: int) -> None:
    draw = random.Random(0)
    checkpoint, dataset, run = made
    checkpoints = [checkpoint | {"id": new_id(), "name": f"model-{n}.safetensors"} for n in range(12)]
    session.execute(insert(Checkpoint), checkpoints)
    session.execute(insert(Dataset), [dataset])
    for start in range(0, count, AT_ONCE):
        rows = [copied(run, draw, checkpoints, start + n) for n in range(min(AT_ONCE, count - start))]
        session.execute(insert(Run), rows)
        figures = [
            {"run_id": row["id"], "name": name, "value": value, "text": text}
            for row in rows
            for name, (value, text) in figures_of(SimpleNamespace(**row)).items()
        ]
        session.execute(insert(RunFigure), figures)
        tags = [
            {"run_id": row["id"], "tag": tag} for row in rows for tag in draw.sample(TAGS, draw.choice((0, 0, 1, 2)))
        ]
        session.execute(insert(RunTag), tags)
        notes = [{"run_id": row["id"], "text": f"Note {draw.random()}. " * 20} for row in rows if draw.random() < 0.05]
        if notes:
            session.execute(insert(RunNote), notes)
        session.commit()


def copied(run: dict[str, Any], draw: random.Random, checkpoints: list[dict[str, Any]], number: int) -> dict[str, Any]:
    chosen, sparsity, bits = draw.choice(checkpoints), round(draw.uniform(0.1, 0.9), 2), draw.choice((2, 3, 4, 8))
    steps = run["receipt"]["steps"]
    said = {"sparsity": sparsity}, {"bits": bits}
    receipt = run["receipt"] | {
        "steps": [step | {"settings": step["settings"] | own} for step, own in zip(steps, said, strict=True)]
    }
    accuracy = run["result"]["metrics"]["accuracy"] | {"value": draw.uniform(0.5, 0.99)}
    result = run["result"] | {
        "size_bytes": draw.randrange(20_000, 300_000),
        "sparsity": sparsity,
        "metrics": run["result"]["metrics"] | {"accuracy": accuracy},
    }
    state = RunState.FAILED if draw.random() < 0.1 else RunState.SUCCEEDED
    begun = now() - timedelta(seconds=60 * (20_000 - number))
    row = run | {
        "id": new_id(),
        "name": f"{chosen['name']}: Magnitude pruning {sparsity} %, Weight quantization {bits}",
    }
    row |= {"checkpoint_id": chosen["id"], "state": state, "starred": draw.random() < 0.02, "created_at": begun}
    row |= {"receipt": receipt, "result": result, "started_at": begun, "best_of_id": None}
    if state is RunState.FAILED:
        row |= {"receipt": None, "result": None, "error": {"code": "internal", "message": "It failed."}}
    return row | {"finished_at": begun + timedelta(seconds=draw.uniform(2, 600))}


def landmarks(session: Session) -> Iterator[tuple[str, str]]:
    yield "checkpoint", session.scalars(select(Run.checkpoint_id).limit(1)).one()
    ids = list(session.scalars(select(Run.id).order_by(func.random()).limit(50)))
    yield "rows", "&".join(f"run={id_}" for id_ in ids)
    yield "two", "&".join(f"run={id_}" for id_ in ids[:2])


def views(client: FlaskClient, places: dict[str, str]) -> Iterator[tuple[str, str]]:
    yield "the first page", "/runs"
    yield "page 100", page(client, 99)
    yield "the last page", "/runs?to=end"
    for key in ("name", "-size_bytes", "metric.accuracy", "setting.weight_quantization.bits", "checkpoint", "-seconds"):
        yield f"sorted by {key}", f"/runs?sort={key}"
    yield "sorted by -size_bytes, the last page", "/runs?sort=-size_bytes&to=end"
    yield "search of two words", "/runs?q=pruning+quantization"
    yield "search that finds nothing", "/runs?q=nothing+at+all"
    yield "failed", "/runs?state=failed"
    yield "of a checkpoint, by accuracy", f"/runs?checkpoint={places['checkpoint']}&sort=-metric.accuracy"
    yield "tagged, starred, by tag", "/runs?tag=keep&starred=1&sort=tags"
    yield "by technique", "/runs?technique=weight_quantization&sort=techniques"
    many = ("checkpoint", "dataset", "state", "tags", "techniques", "size_bytes", "metric.accuracy", "speed", "seconds")
    yield "nine columns", "/runs?" + "&".join(f"column={key}" for key in many)
    yield "what has changed of 50 rows", f"/runs/rows?since=2999-01-01T00:00:00Z&{places['rows']}"
    yield "nothing has changed (304)", f"/runs/rows?since=2999-01-01T00:00:00Z&{places['rows']}#304"
    yield "home", "/"
    yield "picker of the comparison", "/compare"
    yield "comparison of two", f"/compare?{places['two']}"
    yield "API, 50 runs", "/api/v1/runs"
    yield "API, 50 runs by accuracy", "/api/v1/runs?sort=-metric.accuracy"


def page(client: FlaskClient, number: int) -> str:
    path = "/runs"
    for _ in range(number):
        shown = client.get(path).text
        following = shown.rpartition("<span>Next</span>")[0].rpartition('href="')[2].partition('"')[0]
        path = following.replace("&amp;", "&") or path
    return path


def measured(client: FlaskClient, name: str, path: str, times: int) -> str:
    path, _, unchanged = path.partition("#")
    first = client.get(path)
    assert first.status_code == 200, first.text
    headers = {"If-None-Match": first.headers["ETag"]} if unchanged else {}
    took, worked = [], []
    for _ in range(times):
        begun, working = time.perf_counter(), time.process_time()
        answer = client.get(path, headers=headers)
        worked.append(1000 * (time.process_time() - working))
        took.append(1000 * (time.perf_counter() - begun))
        assert answer.status_code == (304 if unchanged else 200)
    p95, cpu = (statistics.quantiles(each, n=20, method="inclusive")[-1] for each in (took, worked))
    size = len(answer.data)
    packed = len(gzip.compress(answer.data, 6))
    return (
        f"| {name} | {statistics.median(took):.1f} | {p95:.1f} | {cpu:.1f} | {size / 1000:.1f} | {packed / 1000:.1f} |"
    )


if __name__ == "__main__":
    main()
