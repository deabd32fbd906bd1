"""Pare from a Python program: `Pare(url)` uploads, profiles, solves budgets, runs, waits and downloads.

It speaks HTTP with the standard library alone, imports nothing else of Pare, and works with one on another machine.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

Json = dict[str, Any]
Kind = Literal["checkpoints", "datasets", "profiles", "runs", "studies"]
CHUNK_BYTES = 1 << 20
ASKS_AGAIN_SECONDS = 0.3, 5.0  # between two looks at what is waited for: at first, and at most


class PareRefused(Exception):
    """The server's error: `status` of HTTP, `code` for programs, `message` a sentence, and the `field` it is about."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field


class PareUnreachable(Exception):
    """Nobody answers at the address, or not in time."""


class NotSucceeded(Exception):
    """What was waited for was refused, failed or was cancelled; `thing` says it all."""

    def __init__(self, thing: Thing) -> None:
        super().__init__(thing.why)
        self.thing = thing


@dataclass(frozen=True)
class Thing:
    """An upload, a profile, a run, a study or a replay as the API told it last; `data` is all of the answer."""

    kind: Kind
    id: str
    state: str  # of an upload: inspecting, ready, refused; else queued, running, succeeded, failed, cancelled
    data: Json

    @property
    def ended(self) -> bool:
        return self.state not in ("inspecting", "queued", "running")

    @property
    def good(self) -> bool:
        return self.state in ("ready", "succeeded")

    @property
    def why(self) -> str:
        """The sentence that says why it did not succeed; "cancelled" where nothing else is known."""
        told = self.data.get("reason") or self.data.get("error") or {}
        return str(told.get("message") or f"It is {self.state}.")

    @property
    def result(self) -> Json:
        """Of a run: size_bytes, sparsity, metrics and more; of a replay its figures; empty until there is one."""
        return self.data.get("result") or {}

    @property
    def receipt(self) -> Json:
        return self.data.get("receipt") or {}

    @property
    def artifacts(self) -> list[str]:
        """The names of a run's files that can be downloaded."""
        return [each["name"] for each in self.data.get("artifacts") or () if each.get("digest")]


@dataclass(frozen=True)
class SolvedBudget:
    """A recipe that keeps to a goal, and what is expected of it. `request` starts a run of it."""

    recipe: Json | None  # None: the original itself keeps to the goal
    size_bytes: int
    expected: Json  # {"loss": {"value", "low", "high", …}, "points": the same or None}
    request: Json


class Pare:
    """A Pare that runs at `url`. `token` is its access token, where it asks for one; else of PARE_TOKEN.

    Every method raises PareRefused where the server refuses, and PareUnreachable where nobody answers within
    `timeout` seconds.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", token: str | None = None, timeout: float = 60.0) -> None:
        self.url, self.timeout = url.rstrip("/"), timeout
        self._token = token if token is not None else os.environ.get("PARE_TOKEN")

    def upload_checkpoint(self, path: str | Path, name: str | None = None, wait: bool = True) -> Thing:
        """Streams a file in, and returns it once it is inspected. Raises NotSucceeded where it is refused."""
        return self._upload("checkpoints", Path(path), {"name": name or Path(path).name}, wait)

    def upload_dataset(
        self, path: str | Path, name: str | None = None, split: Literal["auto", "all"] = "auto", wait: bool = True
    ) -> Thing:
        """As a checkpoint. `split` "all": every sample evaluates, and none calibrates or trains."""
        return self._upload("datasets", Path(path), {"name": name or Path(path).name, "split": split}, wait)

    def profile(self, checkpoint: Thing | str, dataset: Thing | str | None = None, wait: bool = True) -> Thing:
        """What each option of each layer saves and costs. Raises NotSucceeded where it fails."""
        asked = {"checkpoint_id": _id(checkpoint), "dataset_id": dataset and _id(dataset)}
        return self._begun("profiles", "/profiles", asked, wait)

    def budget(
        self,
        profile: Thing | str,
        *,
        bytes: int | None = None,
        ratio: float | None = None,
        points: float | None = None,
        loss: float | None = None,
        families: Sequence[str] | None = None,
        exports: Sequence[str] = (),
    ) -> SolvedBudget:
        """The recipe of the least expected loss within a size, or of the least size within a tolerance.

        The size is `bytes`, or the original's divided by `ratio`; the tolerance `points` of the metric with labels, or
        the profile's `loss`. Nothing is run.
        """
        goals = {"bytes": bytes, "ratio": ratio, "points": points, "loss": loss}
        goal = {name: value for name, value in goals.items() if value is not None}
        request = {"profile_id": _id(profile), "goal": goal, "families": list(families) if families else None}
        answer = self.call("POST", "/budgets", {**request, "exports": list(exports)})
        return SolvedBudget(answer["recipe"], answer["size_bytes"], answer["expected"], request)

    def run(
        self,
        checkpoint: Thing | str | None = None,
        *,
        recipe: Mapping[str, Any] | str | None = None,
        budget: SolvedBudget | None = None,
        continues: Thing | str | None = None,
        dataset: Thing | str | None = None,
        training_dataset: Thing | str | None = None,
        exports: Sequence[str] = (),
        seed: int | None = None,
        name: str | None = None,
        wait: bool = False,
    ) -> Thing:
        """Starts a run of a recipe (plain data, or YAML) or of a budget; with `wait`, returns it once it has ended.

        `continues`, a run that has succeeded, takes the place of the checkpoint: the recipe goes on from what that
        run delivered.
        """
        given: Json = {
            "checkpoint_id": checkpoint and _id(checkpoint),
            "run_id": continues and _id(continues),
            "recipe": recipe,
            "budget": budget and budget.request,
            "dataset_id": dataset and _id(dataset),
            "training_dataset_id": training_dataset and _id(training_dataset),
            "exports": list(exports) or None,
            "seed": seed,
            "name": name,
        }
        asked = {key: value for key, value in given.items() if value is not None}
        return self._begun("runs", "/runs", asked, wait)

    def sweep(
        self,
        checkpoint: Thing | str,
        recipe: Mapping[str, Any] | str,
        dataset: Thing | str | None = None,
        *,
        exports: Sequence[str] = (),
        name: str | None = None,
        wait: bool = False,
    ) -> Thing:
        """Starts a study of all recipes that one with ranges or lists stands for."""
        sweep = {"checkpoint_id": _id(checkpoint), "dataset_id": dataset and _id(dataset), "recipe": recipe}
        asked = {"sweep": sweep, "exports": list(exports), "name": name}
        return self._begun("studies", "/studies", asked, wait)

    def get(self, thing: Thing | str, kind: Kind | None = None) -> Thing:
        """It as it is now; of an id, name its kind."""
        if isinstance(thing, Thing):
            kind = thing.kind
        if kind is None:
            raise ValueError("of an id alone it is not known what it is of; give its kind, such as runs")
        return _thing(kind, self.call("GET", f"/{kind}/{quote(_id(thing), safe='')}"))

    def wait(self, thing: Thing, seconds: float | None = None, tell: Callable[[Thing], None] | None = None) -> Thing:
        """It once it has ended, `tell` being called at each look. Raises NotSucceeded, and TimeoutError."""
        deadline = None if seconds is None else time.monotonic() + seconds
        pause, most = ASKS_AGAIN_SECONDS
        while True:
            thing = self.get(thing)
            if tell is not None:
                tell(thing)
            if thing.ended:
                break
            if deadline is not None and time.monotonic() + pause > deadline:
                raise TimeoutError(f"{thing.kind}/{thing.id} is still {thing.state} after {seconds:g} s.")
            time.sleep(pause)
            pause = min(1.5 * pause, most)
        if not thing.good:
            raise NotSucceeded(thing)
        return thing

    def runs(self, **view: str | Sequence[str]) -> Iterator[Thing]:
        """The runs that a view of the table shows, such as `runs(q="resnet", tag="paper", sort="size_bytes")`."""
        asked = dict(view)
        while True:
            page = self.call("GET", f"/runs?{urlencode(asked, doseq=True)}")
            yield from (_thing("runs", each) for each in page["items"])
            if page["next"] is None:
                return
            asked["before"] = page["next"]

    def update(self, run: Thing | str, **changes: Any) -> Thing:
        """`name`, `notes` (Markdown), `tags` (a list) and `starred` of a run."""
        return _thing("runs", self.call("PATCH", f"/runs/{quote(_id(run), safe='')}", changes))

    def cancel(self, thing: Thing) -> Thing:
        """Of a profile, a run or a study."""
        return _thing(thing.kind, self.call("POST", f"/{thing.kind}/{thing.id}/cancel", {}))

    def retry(self, thing: Thing) -> Thing:
        """Of a profile or a run that failed or was cancelled; of a study, all of its runs that did."""
        return _thing(thing.kind, self.call("POST", f"/{thing.kind}/{thing.id}/retry", {}))

    def delete(self, thing: Thing) -> None:
        self.call("DELETE", f"/{thing.kind}/{thing.id}")

    def download(self, run: Thing | str, to: str | Path, name: str = "model.safetensors") -> Path:
        """Writes a run's file to a path, or into a folder, and returns where it is.

        It is held against the SHA-256 that the receipt has, and written under another name until it is whole. Raises
        OSError where it is not what the run delivered.
        """
        path = Path(to) / name if Path(to).is_dir() else Path(to)
        part = path.with_name(f"{path.name}.part")
        address = f"/runs/{quote(_id(run), safe='')}/artifacts/{quote(name)}"
        content = hashlib.sha256()
        try:
            with self._open("GET", address) as answer, part.open("wb") as file:
                digest = str(answer.headers.get("ETag", "")).strip('W/"')
                while chunk := answer.read(CHUNK_BYTES):
                    content.update(chunk)
                    file.write(chunk)
            if digest.partition("-")[0] != content.hexdigest():
                raise OSError(f"{name} did not arrive as it was sent; download it again.")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path

    def deploy(
        self, run: Thing | str, artifact: str | None = None, name: str | None = None, seconds: float | None = 120.0
    ) -> Json:
        """Serves a run's file, and returns its `name`, `url` and `token` once it answers; the token is told this once.

        Raises TimeoutError where it does not answer within `seconds`, and PareRefused where it cannot be served.
        """
        given = {"run_id": _id(run), "artifact": artifact, "name": name}
        made = self.call("POST", "/deployments", {key: value for key, value in given.items() if value is not None})
        address, deadline = f"/deployments/{quote(made['name'], safe='')}", time.monotonic() + (seconds or math.inf)
        while (now := self.call("GET", address))["state"] == "starting":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{made['name']} is still starting after {seconds:g} s.")
            time.sleep(ASKS_AGAIN_SECONDS[0])
        if now["state"] != "ready":
            raise PareRefused(503, "unavailable", now["reason"] or f"{made['name']} is {now['state']}.")
        return {**made, **now}

    def replay(
        self,
        deployment: str,
        *,
        samples: int | None = None,
        seconds: float | None = None,
        beside: str | None = None,
        wait: bool = True,
    ) -> Thing:
        """Sends the run's dataset through a deployment, in turns with what is `beside`: "original", or another's name.

        Of its end, `result` has the figures, and `data["sentences"]` what they mean. Raises NotSucceeded.
        """
        given = {"samples": samples, "seconds": seconds, "beside": beside}
        kind = cast("Kind", f"deployments/{quote(deployment, safe='')}/replays")
        asked = {key: value for key, value in given.items() if value is not None}
        return self._begun(kind, f"/{kind}", asked, wait)

    def call(self, method: str, path: str, body: Any = None) -> Json:
        """Any request of the API: `path` begins behind /api/v1, `body` is sent as JSON. {} where nothing comes back."""
        data = None if body is None else json.dumps(body).encode()
        with self._open(method, path, data, {"Content-Type": "application/json"} if body is not None else {}) as answer:
            told = answer.read()
        return cast("Json", json.loads(told)) if told else {}

    def _begun(self, kind: Kind, path: str, asked: Json, wait: bool) -> Thing:
        made = _thing(kind, self.call("POST", path, asked))
        return self.wait(made) if wait else made

    def _upload(self, kind: Kind, path: Path, query: dict[str, str], wait: bool) -> Thing:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(path.stat().st_size)}
        with path.open("rb") as file, self._open("PUT", f"/{kind}?{urlencode(query)}", file, headers) as answer:
            made = _thing(kind, json.loads(answer.read()))
        return self.wait(made) if wait else made

    def _open(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        sent = {"Accept": "application/json", **(headers or {})}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        request = Request(f"{self.url}/api/v1{path}", body, sent, method=method)  # noqa: S310 - the caller's own server
        try:
            return urlopen(request, timeout=self.timeout)  # noqa: S310
        except HTTPError as refusal:
            raise _refused(refusal) from None
        except (URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise PareUnreachable(f"No Pare answers at {self.url}: {reason}") from None


def _refused(refusal: HTTPError) -> PareRefused:
    with refusal:
        text = refusal.read(CHUNK_BYTES)
    try:
        error = json.loads(text)["error"]
        return PareRefused(refusal.code, error["code"], error["message"], error.get("field"))
    except (ValueError, KeyError, TypeError):  # what stands in between, a proxy, answers in its own way
        return PareRefused(refusal.code, "http", f"The server answered {refusal.code} {refusal.reason}.")


def _thing(kind: Kind, answer: Json) -> Thing:
    return Thing(kind, answer["id"], answer["state"], answer)


def _id(thing: Thing | str) -> str:
    return thing if isinstance(thing, str) else thing.id
