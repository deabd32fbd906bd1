"""What a `pare serve` holds: memory of all its processes, idle and after use, and what an upload takes beside `cp`.

    python -m tests.benchmarks.serving                  fresh, used, and an upload of 1 GB
    python -m tests.benchmarks.serving --upload-gb 3

Pages that processes share count once; of files, what one of them has in memory, whoever else has it. Used means: a
run with ONNX, one without, a profile, a study, and every page looked at three times. Idle means that for a while nobody
asked for anything.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import threading
import time
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import psutil

from tests.api_client import Api
from tests.pare_process import Served, serving

EIGHT = {"version": 2, "steps": [{"technique": "weight_quantization", "settings": {"bits": 8}}]}
KINDS = {
    "create_app": "web",
    "webapp.cli worker": "worker",
    "webapp.cli deployer": "deployer",
    "fork_server": "fork server",
}
SUPERVISOR = "supervisor"
FILE_MAX_BYTES = 1 << 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upload-gb", type=float, default=1.0)
    parser.add_argument("--idle-seconds", type=float, default=90.0)
    parser.add_argument("--place", type=Path, help="a folder on the disk to use")
    asked = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(dir=asked.place) as folder:
        with serving(Path(folder, "instance")) as served:
            print("| `pare serve` | all MB | web | worker | fork server | deployer | supervisor |")
            print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
            ready(Api(served.url))
            time.sleep(asked.idle_seconds)
            print(row("fresh, idle", held(served)), flush=True)
            used(served)
            print(row("just used", held(served)), flush=True)
            time.sleep(asked.idle_seconds)
            print(row("used, idle", held(served)), flush=True)
        with serving(Path(folder, "other")) as served:
            uploaded(served, Path(folder), int(asked.upload_gb * 1e9))


def held(served: Served) -> Counter[str]:
    """Bytes by kind of process."""
    found: Counter[str] = Counter()
    files: dict[str, tuple[int, str]] = {}  # the most that one process has in memory, and its kind
    parent = psutil.Process(served.pid)
    for process in (parent, *parent.children(recursive=True)):
        words = " ".join(process.cmdline())
        kind = next((kind for part, kind in KINDS.items() if part in words), SUPERVISOR)
        own, mapped = pages(process.pid)
        found[kind] += own
        for file, bytes_ in mapped.items():
            files[file] = max(files.get(file, (0, "")), (bytes_, kind))
    for bytes_, kind in files.values():
        found[kind] += bytes_
    return found


def pages(process_id: int) -> tuple[int, Counter[str]]:
    """Its share of anonymous memory, and by file what it has in memory of it as it is on the disk; in bytes."""
    mapped: Counter[str] = Counter()
    file = ""
    for line in Path(f"/proc/{process_id}/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            file = line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) > 5 else ""
        elif file.startswith("/") and name in ("Rss:", "Anonymous:"):
            mapped[file] += int(rest.split()[0]) * (1024 if name == "Rss:" else -1024)
    rollup = dict(line.split(":") for line in Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines()[1:])
    return int(rollup["Pss_Anon"].split()[0]) * 1024, mapped


def row(title: str, found: Counter[str]) -> str:
    kinds = ("web", "worker", "fork server", "deployer", "supervisor")
    return (
        " | ".join([f"| {title}", *(f"{bytes_ / 1e6:.0f}" for bytes_ in (found.total(), *map(found.get, kinds)))])
        + " |"
    )


def ready(api: Api) -> tuple[str, str]:
    """The samples, once they are inspected: the checkpoint's id and the dataset's."""
    found = []
    for kind in ("checkpoints", "datasets"):
        for each in api.get(f"/{kind}")["items"]:
            row = api.wait(f"/{kind}/{each['id']}", lambda row: row["state"] != "inspecting")
            if "unlabelled" not in row["name"]:
                found.append(str(row["id"]))
    checkpoint, dataset = found
    return checkpoint, dataset


def used(served: Served) -> None:
    api = Api(served.url)
    checkpoint, dataset = ready(api)
    runs = [api.run(checkpoint, EIGHT, dataset, exports=["onnx"])["id"], api.run(checkpoint, EIGHT)["id"]]
    profile = api.post("/profiles", {"checkpoint_id": checkpoint, "dataset_id": dataset})["id"]
    for id_ in runs:
        assert api.finished(id_)["state"] == "succeeded"
    api.wait(f"/profiles/{profile}", lambda row: row["state"] == "succeeded")
    study = api.post("/studies", {"profile_id": profile, "smallest": {"loss": 0.05, "most_runs": 2}})["id"]
    api.wait(f"/studies/{study}", lambda row: row["state"] == "succeeded")
    pages = ["/", "/runs", "/runs/new", "/checkpoints", "/datasets", "/studies", "/techniques", "/deployments", "/api"]
    pages += [f"/checkpoints/{checkpoint}", f"/checkpoints/{checkpoint}/fit?profile={profile}", f"/datasets/{dataset}"]
    pages += [f"/studies/{study}", f"/compare?run={runs[0]}&run={runs[1]}", "/api/v1/openapi.json"]
    for id_ in runs:
        pages += [f"/runs/{id_}", f"/runs/{id_}/receipt", f"/runs/new?checkpoint={checkpoint}"]
    for page in pages * 3:
        try:
            urlopen(served.url + page, timeout=60).read()
        except OSError as error:
            print(page, error)


def uploaded(served: Served, folder: Path, size_bytes: int) -> None:
    """One file of zeros and noise, by `PUT`, beside `cp` just before and just after."""
    web = next(process.pid for process in psutil.Process(served.pid).children(recursive=True) if is_web(process))
    ready(Api(served.url))
    source, block = folder / "large.bin", os.urandom(FILE_MAX_BYTES)
    with source.open("wb") as file:
        for start in range(0, size_bytes, FILE_MAX_BYTES):
            file.write(block[: size_bytes - start])
    before, most, done = resident(web), [0], threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], resident(web))

    copies = [copied(source, folder)]
    watcher = threading.Thread(target=look)
    watcher.start()
    begun = time.perf_counter()
    client = HTTPConnection(served.url.removeprefix("http://"), timeout=3600, blocksize=1 << 20)
    with source.open("rb") as body:
        client.request("PUT", "/api/v1/checkpoints?name=large.safetensors", body, {"Content-Length": str(size_bytes)})
        status = client.getresponse().status
    took = time.perf_counter() - begun
    client.close()
    assert status == 201, f"the upload was answered with {status}"
    done.set()
    watcher.join()
    copies.append(copied(source, folder))
    copy = sum(copies) / len(copies)
    print("\n| upload | GB | s | × cp | web MB before | web MB at most |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print(f"| PUT | {size_bytes / 1e9:g} | {took:.1f} | {took / copy:.2f} | {before / 1e6:.0f} | {most[0] / 1e6:.0f} |")


def resident(process_id: int) -> int:
    return int(psutil.Process(process_id).memory_info().rss)


def is_web(process: psutil.Process) -> bool:
    """The process that answers, not gunicorn's own that watches it."""
    return "create_app" in " ".join(process.cmdline()) and not process.children()


def copied(file: Path, folder: Path) -> float:
    """Seconds of `cp`, until the bytes are on the disk."""
    begun = time.perf_counter()
    subprocess.run(["cp", str(file), str(folder / "copy")], check=True)
    with (folder / "copy").open("rb") as copy:
        os.fsync(copy.fileno())
    taken = time.perf_counter() - begun
    (folder / "copy").unlink()
    return taken


if __name__ == "__main__":
    main()
