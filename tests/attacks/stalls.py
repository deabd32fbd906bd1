"""Clients that send or take nothing, or next to nothing: `python -m tests.attacks.stalls URL` attacks a running Pare.

Each attack opens its connections and holds them, while others ask for pages; what is told is how long those wait.
"""

from __future__ import annotations

import http.client
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

UPLOAD = b"PUT /api/v1/checkpoints?name=s.pt HTTP/1.1\r\nHost: 127.0.0.1\r\n"
SERVE = b"POST /serve/nope/v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer x\r\n"
FORM = b"POST /runs/x/cancel HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
LARGE, SMALL, CHUNKED = (
    b"Content-Length: 1000000\r\n\r\nabc",
    b"Content-Length: 900\r\n\r\nabc",
    b"Transfer-Encoding: chunked\r\n\r\n",
)
EXPECTING = b"Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n"
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
LIBRARY = b"GET /static-vendor/plotly-1.min.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@dataclass(frozen=True)
class Attack:
    """`trickle` is what is sent again and again, a byte at a time."""

    name: str
    count: int
    opening: bytes
    trickle: bytes = b""
    takes_nothing: bool = False


ATTACKS = (
    Attack("silent connections", 200, b""),
    Attack("half heads", 200, b"GET /runs HT"),
    Attack("more half heads than connections are kept", 1100, b"GET /runs HT"),
    Attack("trickled heads", 100, b"GET /runs HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ", b"a"),
    Attack("half heads behind whole requests", 60, WHOLE + b"GET /runs HT"),
    Attack("stalled uploads", 60, UPLOAD + LARGE),
    Attack("stalled chunked uploads", 60, UPLOAD + CHUNKED + b"5\r\nab"),
    Attack("trickled uploads", 60, UPLOAD + LARGE, b"a"),
    Attack("uploads that wait to be told to go on", 60, UPLOAD + EXPECTING),
    Attack("stalled requests to a model without a right token", 60, SERVE + LARGE),
    Attack("stalled large forms", 60, FORM + LARGE),
    Attack("stalled small forms", 60, FORM + SMALL),
    Attack("answers that nobody reads", 60, LIBRARY * 8, takes_nothing=True),
)


@contextmanager
def under(attack: Attack, url: str) -> Iterator[list[socket.socket]]:
    """Holds the connections of the attack while the block runs."""
    address = (urlsplit(url).hostname, urlsplit(url).port)
    held: list[socket.socket] = []
    stopped = threading.Event()

    def trickle() -> None:
        while not stopped.wait(0.3):
            for client in held:
                with suppress(OSError):  # the server has ended it
                    client.send(attack.trickle)

    try:
        for _ in range(attack.count):
            client = socket.socket()
            if attack.takes_nothing:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.settimeout(5)
            client.connect(address)
            client.sendall(attack.opening)
            held.append(client)
        sender = threading.Thread(target=trickle)
        if attack.trickle:
            sender.start()
        yield held
    finally:
        stopped.set()
        if attack.trickle:
            sender.join()
        for client in held:
            client.close()


def wait_for(url: str, path: str = "/healthz") -> float:
    """How many seconds the page took. Raises where it is not answered."""
    parts, begun = urlsplit(url), time.monotonic()
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 200, f"{path} was answered with {answer.status}"
    return time.monotonic() - begun


def worst_wait(url: str, seconds: float) -> float:
    """The longest that anybody waited for a page meanwhile."""
    end, worst = time.monotonic() + seconds, 0.0
    while time.monotonic() < end:
        worst = max(worst, wait_for(url), wait_for(url, "/runs"))
        time.sleep(0.1)
    return worst


def main(url: str, say: Callable[[str], None] = print) -> None:
    for attack in ATTACKS:
        with under(attack, url):
            say(f"{attack.count:5} {attack.name}: pages came within {worst_wait(url, 3):.2f} s")


if __name__ == "__main__":
    main(sys.argv[1])
