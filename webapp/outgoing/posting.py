"""A POST to an address whose name was looked up before: to that very address, once, and bounded in time and bytes."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException

from .addresses import DEFAULT_PORTS, CheckedAddress

POST_SECONDS = 15.0  # from the first connection to the end of the answer
CONNECT_SECONDS = 5.0  # to one address of several
READ_BYTES = 500  # of the answer's body


class PostFailed(Exception):
    """Nothing was answered: a sentence that says why."""


def post(
    target: CheckedAddress, headers: Mapping[str, str], body: bytes, seconds: float = POST_SECONDS
) -> tuple[int, str]:
    """The status, and the beginning of the answer as a text. No redirect is followed. Raises PostFailed."""
    connection = _Connection(target, seconds)
    watch = threading.Timer(seconds, connection.cut)  # an answer that comes byte by byte meets no other limit
    watch.daemon = True
    watch.start()
    try:
        connection.request("POST", target.path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read(READ_BYTES).decode("utf8", "replace")
    except (OSError, HTTPException) as error:
        raise PostFailed(_why(target, error, connection, seconds)) from error
    finally:
        watch.cancel()
        connection.close()


class _Connection(HTTPConnection):
    """To one of the target's addresses, with its name in the Host header and in TLS."""

    def __init__(self, target: CheckedAddress, seconds: float) -> None:
        self.default_port = DEFAULT_PORTS[target.scheme]  # which the Host header leaves out
        super().__init__(target.host, target.port)
        self.target, self.deadline, self.was_cut = target, time.monotonic() + seconds, False

    def connect(self) -> None:
        """Raises OSError."""
        self.sock = self._reached()
        self.sock.settimeout(self._left())
        if self.target.scheme == "https":
            context, name = ssl.create_default_context(), self.target.host
            self.sock = context.wrap_socket(self.sock, server_hostname=name, do_handshake_on_connect=False)
            self.sock.do_handshake()  # now, that it can be cut

    def cut(self) -> None:
        """Ends whatever it waits for."""
        self.was_cut = True
        if self.sock is not None:
            with suppress(OSError):  # it may have ended
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # TLS's own would unwrap it under the reader

    def _reached(self) -> socket.socket:
        error = OSError("it has no address")
        for address in self.target.addresses:
            if self.was_cut:
                raise TimeoutError
            try:
                return socket.create_connection((address, self.target.port), min(CONNECT_SECONDS, self._left()))
            except OSError as told:
                error = told
        raise error

    def _left(self) -> float:
        return max(0.1, self.deadline - time.monotonic())


def _why(target: CheckedAddress, error: Exception, connection: _Connection, seconds: float) -> str:
    if connection.was_cut or isinstance(error, TimeoutError):
        return f"{target.host} did not answer within {seconds:g} seconds."
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The certificate of {target.host} is not trusted: {error.verify_message}."
    if isinstance(error, ssl.SSLError):
        return f"No secure connection to {target.host}: {error.reason or 'TLS failed'}."
    if isinstance(error, ConnectionRefusedError):
        return f"Nothing answers at {target.host}, port {target.port}."
    if isinstance(error, OSError):
        return f"{target.host} could not be reached: {error.strerror or error}."
    return f"What {target.host} answered is no HTTP."
