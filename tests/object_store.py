"""S3 for the tests: moto's server, in a thread of this process or as one of its own."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.patience import until
from tests.postgresql import free_port

REGION = "us-east-1"


class Buckets:
    """Of the S3 server at the port. Names it in the environment, for the processes that tests start too."""

    def __init__(self, port: int) -> None:
        self.port = port
        os.environ |= {  # as boto and s3fs read them
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "pare",
            "AWS_SECRET_ACCESS_KEY": "pare",
            "AWS_DEFAULT_REGION": REGION,
        }
        forget_clients()

    def bucket(self, name: str) -> str:
        """The URL of a new bucket."""
        import boto3

        boto3.client("s3").create_bucket(Bucket=name)
        return f"s3://{name}/pare"


class ObjectStore(Buckets):
    """In a thread. What it holds outlives its being switched off."""

    def __init__(self) -> None:
        self._start(0)
        _, port = self._server.get_host_and_port()
        super().__init__(port)

    def stop(self) -> None:
        """It refuses connections from now on."""
        self._server.stop()

    def start(self) -> None:
        """On the port that it had."""
        self._start(self.port)

    def _start(self, port: int) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", port)
        self._server.start()


@functools.cache
def object_store() -> ObjectStore:
    """One for all tests of this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    return ObjectStore()


@contextmanager
def object_store_process(log: Path = Path(os.devnull)) -> Iterator[Buckets]:
    """A server of its own process, until the block ends."""
    before, port = dict(os.environ), free_port()
    with log.open("wb") as said:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=said, stderr=said)
        try:
            until(lambda: _answers(port))
            yield Buckets(port)
        finally:
            server.kill()
            server.wait()
            os.environ.clear()
            os.environ |= before
            forget_clients()


def forget_clients() -> None:
    """fsspec keeps a client for all of a process, which goes on asking the server that it was made for."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()


def _answers(port: int) -> bool:
    try:
        urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
    except (URLError, OSError):
        return False
    return True
