"""Serving processes, as they are started in earnest: real ones, on a socket."""

import http.client
import json
import socket
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.patience import PATIENCE_SECONDS, until
from tests.serving import small_models

ROOT = Path(__file__).parents[2]


class Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_SECONDS)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Serving:
    def __init__(self, folder: Path, address: Path) -> None:
        self.folder, self.address = folder, address
        command = [sys.executable, "-m", "webapp.serving", str(folder), str(address)]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        until(self.listens)

    def listens(self) -> bool:
        assert self.process.poll() is None, self.process.stderr.read()
        with closing(Connection(self.address)) as connection, suppress(FileNotFoundError, ConnectionRefusedError):
            connection.connect()
            return True
        return False

    def send(self, method, path, body=None, headers=None):
        """(status, headers, body)."""
        raw = json.dumps(body).encode() if isinstance(body, dict | list) else body
        with closing(Connection(self.address)) as connection:
            connection.request(method, path, raw, headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def get(self, path):
        status, _, body = self.send("GET", path)
        return status, json.loads(body)

    def post(self, path, body):
        status, _, answer = self.send("POST", path, body)
        return status, json.loads(answer)

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()


@pytest.fixture(scope="session")
def sockets():
    with tempfile.TemporaryDirectory(prefix="pare-") as folder:  # a short path: a socket's may have 107 characters
        yield Path(folder)


def served(make):
    @pytest.fixture(scope="session")
    def fixture(tmp_path_factory, sockets):
        serving = Serving(make(tmp_path_factory.mktemp(make.__name__)), sockets / make.__name__)
        yield serving
        serving.end()

    return fixture


averager = served(small_models.averager)
classifier = served(small_models.classifier)
writer = served(small_models.writer)
encoder = served(small_models.encoder)
