"""HTTP/1.1 on a unix socket: a thread for each connection, the model's turn one at a time."""

from __future__ import annotations

import json
import socketserver
import sys
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from webapp.engine.errors import PareError

from .answers import Answer, Request
from .errors import Refused, TooLarge, error_body
from .model import ServedModel
from .routes import answer, is_counted
from .traffic import CLIENT_LEFT

LARGEST_BODY = 1 << 30  # bytes; whoever lets requests in has the limit that users meet


class ModelServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, path: Path, model: ServedModel) -> None:
        self.model = model
        super().__init__(str(path), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "Pare", ""
    server: ModelServer
    wbufsize = -1

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        arrived, counted = time.perf_counter(), is_counted(self.command, path)
        if counted:
            self.server.model.count()
        try:
            body = self._body()
            arrived = time.perf_counter()
            headers = {name.lower(): value for name, value in self.headers.items()}
            began = time.perf_counter()
            found = answer(self.server.model, Request(self.command, path, headers, body))
            found.headers["Server-Timing"] = f"model;dur={(time.perf_counter() - began) * 1000:.3f}"
        except PareError as error:
            found = _refusal(path, error)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            sentence = "The serving process made a mistake; its log has the details."
            found = Answer(json.dumps({"error": sentence}).encode(), status=500)
        try:
            self._send(found)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client went away
            found.status = CLIENT_LEFT
        if counted:
            self.server.model.traffic.record(time.perf_counter() - arrived, found.status)

    do_POST = do_GET

    def _body(self) -> bytes:
        """Raises Refused, TooLarge."""
        length = self.headers.get("Content-Length", "0")
        if self.headers.get("Transfer-Encoding") or not length.isdigit():
            self.close_connection = True
            raise Refused("Send the body with its Content-Length.")
        if int(length) > LARGEST_BODY:
            self.close_connection = True
            raise TooLarge(f"The body has more than {LARGEST_BODY} bytes.")
        return self.rfile.read(int(length))

    def _send(self, found: Answer) -> None:
        self.send_response(found.status)
        for name, value in found.headers.items():
            self.send_header(name, value)
        if isinstance(found.body, bytes):
            self.send_header("Content-Length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)
            self.wfile.flush()
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._send_pieces(found.body)

    def _send_pieces(self, pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def _refusal(path: str, error: PareError) -> Answer:
    return Answer(error_body(path, error), status=error.status)
