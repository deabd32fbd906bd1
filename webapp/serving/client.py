"""Asking a serving process: HTTP on its unix socket."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

from .errors import Unavailable
from .routes import INTERNAL


class ModelConnection(http.client.HTTPConnection):
    """`timeout` in seconds, for each time that it waits."""

    def __init__(self, address: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._address = address

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._address)
        except OSError:
            self.sock.close()
            raise


def state_of(address: str, timeout: float) -> dict[str, Any]:
    """{"requests", "signature", "started_at", "minutes"}. Raises Unavailable."""
    connection = ModelConnection(address, timeout)
    try:
        connection.request("GET", f"{INTERNAL}state")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        return found
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable("The model's process does not answer.") from error
    finally:
        connection.close()
