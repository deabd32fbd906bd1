"""A small client of Pare's API for the tests, out of the standard library: what anyone could write from the README."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from tests.patience import PATIENCE_SECONDS

Answer = dict[str, Any]


class Refused(AssertionError):
    """The API answered with an error; `status` and `error` are its own."""

    def __init__(self, status: int, error: Answer) -> None:
        super().__init__(f"{status}: {error}")
        self.status, self.error = status, error


class Api:
    def __init__(self, url: str) -> None:
        self.base = f"{url.rstrip('/')}/api/v1"

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> bytes:
        headers = {"Accept": "application/json"} | (headers or {})
        if isinstance(body, dict | list):
            body, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            with urlopen(Request(self.base + path, body, headers, method=method), timeout=PATIENCE_SECONDS) as answer:
                return answer.read()
        except HTTPError as refusal:
            raise Refused(refusal.code, json.loads(refusal.read())["error"]) from None

    def get(self, path: str) -> Answer:
        return json.loads(self.send("GET", path))

    def post(self, path: str, body: Any = None) -> Answer:
        return json.loads(self.send("POST", path, {} if body is None else body))

    def upload(self, kind: str, path: Path, split: str | None = None) -> Answer:
        """Streams the file in and waits for its inspection. `kind` is "checkpoints" or "datasets"."""
        query = f"?name={quote(path.name)}" + (f"&split={split}" if split else "")
        headers = {"Content-Length": str(path.stat().st_size), "Content-Type": "application/octet-stream"}
        with path.open("rb") as body:
            row = json.loads(self.send("PUT", f"/{kind}{query}", body, headers))
        return self.wait(f"/{kind}/{row['id']}", lambda row: row["state"] != "inspecting", 900)

    def run(
        self, checkpoint: str, recipe: Answer, dataset: str | None = None, name: str | None = None, **more: Any
    ) -> Answer:
        asked = {"checkpoint_id": checkpoint, "recipe": recipe, "dataset_id": dataset, "name": name, **more}
        return self.post("/runs", {key: value for key, value in asked.items() if value is not None})

    def finished(self, run_id: str, seconds: float = PATIENCE_SECONDS) -> Answer:
        return self.wait(f"/runs/{run_id}", lambda run: run["state"] in ("succeeded", "failed", "cancelled"), seconds)

    def wait(self, path: str, until: Callable[[Answer], bool], seconds: float = PATIENCE_SECONDS) -> Answer:
        end = time.monotonic() + seconds
        while not until(row := self.get(path)):
            assert time.monotonic() < end, f"{path} is still {row['state']} after {seconds} s: {row}"
            time.sleep(0.3)
        return row
