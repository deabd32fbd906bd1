"""Fetching a model by its name: safetensors, config.json, the tokenizer and the index of one commit; never code."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from webapp.engine.errors import some
from webapp.engine.importers.huggingface import KEPT, KEPT_LIMIT_BYTES
from webapp.engine.progress import Report

from .errors import HubRefused, HubUnreachable, told

CONFIG, WHOLE = "config.json", "model.safetensors"
INDEX = f"{WHOLE}.index.json"
INDEX_LIMIT_BYTES = 100_000_000
SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.safetensors")
WAIT_SECONDS = (1, 2, 5, 10, 30)  # before the next try at a hub that does not answer
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Wanted:
    """`revision` is a branch, a tag, or a commit. Without a token nothing private is seen."""

    endpoint: str
    token: str
    repo_id: str
    revision: str


def resolve(wanted: Wanted, limit_bytes: int) -> dict[str, Any]:
    """{"revision": the commit's hash, "size_bytes": of all that is to be fetched}.

    Raises HubRefused for what has no safetensors, or more than `limit_bytes`; HubUnreachable.
    """
    sha, files = _files(wanted)
    # with an index, its shards are known once it is read; till then all that look so count
    size_bytes = sum(files[name].size for name in _small(files)) + sum(
        files[name].size for name in _weights(files, None)
    )
    _require_below(wanted, size_bytes, limit_bytes)
    return {"revision": sha, "size_bytes": size_bytes}


def download(wanted: Wanted, folder: Path, limit_bytes: int, report: Report) -> dict[str, Any]:
    """Fetches the files into the folder, and goes on where an earlier try was. `revision` is a commit.

    Returns {"digests": {name: SHA-256}} as far as the hub tells them. Raises as `resolve` does.
    """
    _, files = _files(wanted)
    small = _small(files)
    fetch = _Fetching(wanted, folder, report, sum(files[name].size for name in (*small, *_weights(files, None))))
    for name in small:
        fetch(name)
    weights = _weights(files, folder / INDEX if INDEX in small else None)
    fetch.total = sum(files[name].size for name in (*small, *weights))
    _require_below(wanted, fetch.total, limit_bytes)
    for name in weights:
        fetch(name)
    return {"digests": {name: files[name].sha256 for name in weights if files[name].sha256}}


@dataclass(frozen=True)
class HubFile:
    size: int
    sha256: str | None


def _files(wanted: Wanted) -> tuple[str, dict[str, HubFile]]:
    """The commit, and what is in it."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=wanted.endpoint, token=wanted.token or False)
    info = _patiently(wanted, lambda: api.model_info(wanted.repo_id, revision=wanted.revision, files_metadata=True))
    if not info.sha or not re.fullmatch(r"[0-9a-f]{40,64}", info.sha):
        raise HubUnreachable(f"{wanted.endpoint} does not say which commit {wanted.repo_id} is at.")
    found = {
        entry.rfilename: HubFile(entry.size or 0, entry.lfs.sha256 if entry.lfs else None)
        for entry in info.siblings or ()
    }
    if CONFIG not in found:
        raise HubRefused(f"{wanted.repo_id} has no {CONFIG}, so it is no model that transformers loads.")
    if not any(name.endswith(".safetensors") and "/" not in name for name in found):
        others = sorted(name for name in found if name.endswith((".bin", ".gguf", ".h5", ".pt", ".onnx")))
        there = f"; it has {some(others, 3)}" if others else ""
        raise HubRefused(
            f"{wanted.repo_id} has no safetensors{there}. Nothing else is fetched from a hub; upload that yourself."
        )
    return info.sha, found


def _small(files: Mapping[str, HubFile]) -> list[str]:
    kept = [name for name in KEPT if name in files and files[name].size <= KEPT_LIMIT_BYTES]
    index = [INDEX] if INDEX in files and files[INDEX].size <= INDEX_LIMIT_BYTES else []
    return [CONFIG, *kept, *index]


def _weights(files: Mapping[str, HubFile], index: Path | None) -> list[str]:
    """Those that the index names; else the whole file, a set of shards, or the only file that there is."""
    there = sorted(name for name in files if name.endswith(".safetensors") and "/" not in name)
    if index is not None:
        try:
            named = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise HubRefused(f"{INDEX} has no weight_map from tensors to files.") from error
        if missing := sorted(map(str, named - set(there))):
            raise HubRefused(f"{INDEX} names {missing[0]}, which is not there.")
        return sorted(named)
    if WHOLE in there and INDEX not in files:
        return [WHOLE]
    shards = [name for name in there if SHARD.fullmatch(name)]
    return shards or there


def _require_below(wanted: Wanted, size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise HubRefused(
            f"{wanted.repo_id} has {size_bytes} bytes; at most {limit_bytes} are taken in (max_upload_bytes)."
        )


@dataclass
class _Fetching:
    """One file after the other; progress is told of the bytes of all."""

    wanted: Wanted
    folder: Path
    report: Report
    total: int
    done: int = 0

    def __call__(self, name: str) -> None:
        from huggingface_hub import hf_hub_download

        before = self.done

        def fetch() -> Any:
            self.done = before
            return hf_hub_download(
                self.wanted.repo_id,
                name,
                revision=self.wanted.revision,
                local_dir=self.folder,
                endpoint=self.wanted.endpoint,
                token=self.wanted.token or False,
                tqdm_class=self._counter(name),
            )

        _patiently(self.wanted, fetch)
        self.done = before + (self.folder / name).stat().st_size
        self._tell(name)

    def _counter(self, name: str) -> Any:
        from tqdm import tqdm

        fetching = self

        class Counter(tqdm):  # type: ignore[type-arg]
            def __init__(self, *given: Any, **options: Any) -> None:
                super().__init__(*given, **(options | {"disable": True}))
                fetching.done += options.get("initial") or 0  # what an earlier try had left

            def update(self, n: float | None = 1) -> bool | None:
                fetching.done += int(n or 0)
                fetching._tell(name)
                return None

        return Counter

    def _tell(self, name: str) -> None:
        self.report.progress(self.done / max(self.total, 1), f"Downloading {name}")


def _patiently(wanted: Wanted, ask: Callable[[], Answer]) -> Answer:
    """Asks again while the hub does not answer. Raises HubRefused, HubUnreachable."""
    for seconds in (*WAIT_SECONDS, None):
        try:
            with told(wanted.endpoint, wanted.repo_id):
                return ask()
        except HubUnreachable:
            if seconds is None:
                raise
            time.sleep(seconds)
    raise AssertionError("the last try returns or raises")
