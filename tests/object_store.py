"""S3 for the tests: moto's server in a thread of this process. What it holds outlives its being switched off."""

from __future__ import annotations

import functools
import logging
import os

REGION = "us-east-1"


class ObjectStore:
    def __init__(self) -> None:
        self._start(0)
        _, self.port = self._server.get_host_and_port()
        os.environ |= {  # as boto and s3fs read them, in the processes that tests start too
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "pare",
            "AWS_SECRET_ACCESS_KEY": "pare",
            "AWS_DEFAULT_REGION": REGION,
        }

    def bucket(self, name: str) -> str:
        """The URL of a new bucket."""
        import boto3

        boto3.client("s3").create_bucket(Bucket=name)
        return f"s3://{name}/pare"

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
