"""A receiver of webhooks on this machine: it keeps what it was sent, and answers as it is told to."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Message:
    path: str
    headers: dict[str, str]  # in lower case
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass
class Receiver:
    """`answers` are taken from the front, one for each message; without more 200. `slow` is done before each."""

    url: str = ""
    got: list[Message] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    said: bytes = b"no"
    location: str = ""
    slow: Callable[[BaseHTTPRequestHandler], None] = lambda handler: None


def drip(seconds: float, handler: BaseHTTPRequestHandler) -> None:
    """Answers byte by byte, and never comes to an end of it within the time."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            handler.wfile.write(b"H")
            handler.wfile.flush()
            time.sleep(0.05)
    handler.answered = handler.close_connection = True


@contextlib.contextmanager
def receiving(certificate: Path | None = None) -> Iterator[Receiver]:
    """With a certificate (and its key, in one file) by TLS."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            headers = {name.lower(): value for name, value in self.headers.items()}
            message = Message(self.path, headers, self.rfile.read(length))
            receiver.got.append(message)
            receiver.slow(self)
            if getattr(self, "answered", False):
                return
            self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
            if receiver.location:
                self.send_header("Location", receiver.location)
            self.send_header("Content-Length", str(len(receiver.said)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(receiver.said)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
