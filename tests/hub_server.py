"""A hub for the tests: what the real client of Hugging Face asks of one, on loopback, out of the standard library.

https://huggingface.co/docs/hub/api. It holds models in memory, one commit each; `asked` are the requests that came.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin")  # kept in LFS, whose hash the hub tells


@dataclass
class HubModel:
    files: dict[str, bytes]
    sha: str
    private: bool = False
    gated: bool = False


@dataclass
class HubServer:
    """`token` is asked for what is private. `break_after` bytes of a file the connection ends, once for each of it."""

    token: str = "hf_right"
    models: dict[str, HubModel] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range
    tokens: set[str] = field(default_factory=set)
    break_after: int | None = None
    failing: int = 0  # so many requests are answered with 503
    hold: threading.Event = field(default_factory=threading.Event)  # files wait for it, once it is asked for
    held: bool = False
    url: str = ""
    large: dict[str, bytes] = field(default_factory=dict)  # what was pushed, by SHA-256
    broken: set[str] = field(default_factory=set)

    def add(self, name: str, folder: Path | dict[str, bytes], **more: Any) -> HubModel:
        files = folder if isinstance(folder, dict) else files_in(folder)
        content = json.dumps({path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())})
        self.models[name] = HubModel(files, hashlib.sha256(content.encode()).hexdigest()[:40], **more)
        return self.models[name]


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._write()

    def do_PUT(self) -> None:
        self._write()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append((self.command, path, self.headers.get("Range")))
        hub.tokens.add(self.headers.get("Authorization", ""))
        if hub.failing:
            hub.failing -= 1
            self._send(503, b"busy")
        elif found := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path):
            self._model(found[1], found[2] or "main")
        elif found := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self._file(*found.groups())
        else:
            self._send(404, b"{}")

    def _write(self) -> None:
        """What a push asks for: https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md, and one commit."""
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.asked.append((self.command, path, None))
        if self.command == "PUT":
            hub.large[path.rpartition("/")[2]] = body
            self._send(200, b"")
        elif path == "/api/validate-yaml":
            self._tell({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._send(403, b"{}")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif found := re.fullmatch(r"/api/models/(.+?)/preupload/main", path):
            files = [one["path"] for one in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in files}
            self._tell({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})
        elif found := re.fullmatch(r"/(.+?)\.git/info/lfs/objects/batch", path):
            self._tell({"transfer": "basic", "objects": list(map(self._large, json.loads(body)["objects"]))})
        elif found := re.fullmatch(r"/api/models/(.+?)/commit/main", path):
            self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._send(404, b"{}")

    def _create(self, asked: dict[str, Any]) -> None:
        name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        if name in self.hub.models:
            self._tell({"url": f"{self.hub.url}/{name}"}, 409)
            return
        self.hub.add(name, {".gitattributes": b""}, private=asked.get("visibility") == "private")
        self._tell({"url": f"{self.hub.url}/{name}"})

    def _large(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["oid"] in self.hub.large:
            return asked
        return {**asked, "actions": {"upload": {"href": f"{self.hub.url}/large/{asked['oid']}"}}}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.hub.models[name].files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        model = self.hub.add(name, files, private=self.hub.models[name].private)
        url = f"{self.hub.url}/{name}/commit/{model.sha}"
        self._tell({"success": True, "commitUrl": url, "commitOid": model.sha})

    def _tell(self, answer: dict[str, Any], status: int = 200) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _found(self, name: str, revision: str) -> HubModel | None:
        """Answers, and returns None, where it may not be seen."""
        model = self.hub.models.get(name)
        allowed = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if model is None or (model.private and not allowed):
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif model.gated and not allowed:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif revision not in ("main", model.sha):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            return model
        return None

    def _model(self, name: str, revision: str) -> None:
        if (model := self._found(name, revision)) is None:
            return
        siblings = []
        for path, data in model.files.items():
            entry: dict[str, Any] = {
                "rfilename": path,
                "size": len(data),
                "blobId": hashlib.sha256(data).hexdigest()[:40],
            }
            if path.endswith(LARGE):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        told = {"id": name, "modelId": name, "sha": model.sha, "private": model.private, "siblings": siblings}
        self._send(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, path: str) -> None:
        hub = self.hub
        if (model := self._found(name, revision)) is None:
            return
        if path not in model.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = model.files[path]
        about = {
            "X-Repo-Commit": model.sha,
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        start = 0
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(found[1])
            about["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if hub.held and self.command == "GET":
            hub.hold.wait(60)
        cut = hub.break_after if self.command == "GET" and path.endswith(LARGE) and path not in hub.broken else None
        if cut is not None:
            hub.broken.add(path)
        self._send(206 if "Content-Range" in about else 200, data[start:], about, cut)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


@contextmanager
def hub_server(**given: Any) -> Iterator[HubServer]:
    hub = HubServer(**given)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.hold.set()
        server.shutdown()
        server.server_close()
