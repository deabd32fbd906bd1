"""A path that somebody named: the Hugging Face folder that it is, or lies in, or the one file that is meant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from webapp.engine.errors import CheckpointRefused, some

from . import importers
from .beside import SNAPSHOTS
from .gguf.importance import NAMED
from .huggingface.files import refuse_foreign

CONFIG = "config.json"
CONFIG_LIMIT_BYTES = 10_000_000
WEIGHTS = (".safetensors", ".bin")  # of a Hugging Face folder
REPOSITORY = "models--"  # how Hugging Face's cache calls the folder of one


class Located(NamedTuple):
    """A file, or a folder with a config.json; `only` is the file of weights in it that was named."""

    path: Path
    only: str | None = None


def located(path: Path, filename: str) -> Located:
    """Raises CheckpointRefused for a folder that is not one checkpoint, with what to name instead."""
    if not path.is_dir():
        beside = path.suffix in WEIGHTS and _describes(path.parent / CONFIG)
        return Located(path.parent, path.name) if beside else Located(path)
    if (path / CONFIG).is_file():
        return Located(path)
    if (path / SNAPSHOTS).is_dir():
        return located(_snapshot(path, filename), filename)
    if (path / "model_index.json").is_file():
        parts = sorted(below.parent.name for below in path.glob(f"*/{CONFIG}"))
        raise CheckpointRefused(f"{filename} is a pipeline of several models; name the folder of one: {some(parts)}")
    refuse_foreign(map(PurePosixPath, (entry.name for entry in path.iterdir())), filename, described=False)
    files = sorted(_checkpoints(path))
    if len(files) == 1:
        return located(files[0], filename)
    if not files:
        below = sorted(config.parent.name for config in path.glob(f"*/{CONFIG}"))
        raise CheckpointRefused(
            f"{filename} is a folder without a {CONFIG}, and without a file that is a checkpoint; "
            + (f"name one of the folders in it: {some(below)}" if below else "name another")
        )
    raise CheckpointRefused(
        f"{filename} has no {CONFIG} and several files that may be a checkpoint: "
        f"{some([file.name for file in files])}. Name one of them"
    )


def display_name(path: Path) -> str:
    """What a checkpoint is called that lies there: "org/name" in Hugging Face's cache, else as its file or folder."""
    for folder in (path, *path.parents[:3]):
        if folder.name.startswith(REPOSITORY) and (folder / SNAPSHOTS).is_dir():
            own = "" if path.name == folder.name or path.parent.name == SNAPSHOTS else f"/{path.name}"
            return folder.name.removeprefix(REPOSITORY).replace("--", "/", 1) + own
    return path.name


def _snapshot(repository: Path, filename: str) -> Path:
    """The revision that `main` is, or the only one that is there."""
    main = repository / "refs" / "main"
    found = sorted(folder for folder in (repository / SNAPSHOTS).iterdir() if folder.is_dir())
    wanted = main.read_text(encoding="utf8").strip() if main.is_file() else None
    chosen = [folder for folder in found if folder.name == wanted] or found
    if len(chosen) == 1:
        return chosen[0]
    names = [f"{SNAPSHOTS}/{folder.name}" for folder in found]
    raise CheckpointRefused(
        f"{filename} holds several revisions: {some(names)}. Name one of them"
        if names
        else f"{filename} holds no revision; download the model again"
    )


def _describes(config: Path) -> bool:
    """Whether it is one of Hugging Face, and not some other program's file of that name."""
    if not config.is_file() or config.stat().st_size > CONFIG_LIMIT_BYTES:
        return False
    try:
        found = json.loads(config.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and ("model_type" in found or "architectures" in found)


def _checkpoints(folder: Path) -> Iterator[Path]:
    suffixes = tuple({suffix for kind in importers().values() for suffix in kind.accepts.suffixes})
    for path in folder.iterdir():
        if path.name.endswith(suffixes) and path.is_file() and not NAMED.fullmatch(path.name):
            yield path
