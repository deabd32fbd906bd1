"""No slow client keeps Pare from the others, and none that is only slow is turned away."""

import contextlib
import json
import socket
import struct
import time
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from tests.attacks.stalls import ATTACKS, FORM, LARGE, LIBRARY, SERVE, SMALL, UPLOAD, under, wait_for, worst_wait
from tests.pare_process import serving
from tests.patience import until, within

IDLE_SECONDS, PLACES = 2, 4


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    settings = {"workers": "0", "client_idle_seconds": str(IDLE_SECONDS), "transfers_at_once": str(PLACES)}
    with serving(tmp_path_factory.mktemp("pare"), **settings) as pare:
        yield pare.url


@contextlib.contextmanager
def connected(url, *sent, buffer=None):
    client = socket.socket()
    if buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.settimeout(30)
    client.connect((urlsplit(url).hostname, urlsplit(url).port))
    with client:
        for part in sent:
            client.sendall(part)
        yield client


def all_of(client):
    """What the server says until it ends the connection."""
    said = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while came := client.recv(1 << 16):
            said += came
    return bytes(said)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_pages_come_while_others_stall(url, attack):
    def attempt():
        with under(attack, url):
            return worst_wait(url, 0.5)

    within(3.0, attempt)


def test_an_upload_beyond_the_limit_is_told_to_come_again_and_one_that_stalls_is_ended(url):
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(url, UPLOAD + LARGE)) for _ in range(PLACES)]
        time.sleep(0.5)  # they have their places
        with connected(url, UPLOAD + LARGE) as another:
            head, _, body = all_of(another).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: " in head
        assert b"\r\nConnection: close" in head
        assert json.loads(body)["error"]["code"] == "busy"
        for client in held:
            assert all_of(client).startswith(b"HTTP/1.1 408 ")
    wait_for(url)


def test_who_sends_no_more_is_not_waited_for(url):
    beginnings = (b"", b"GET / HT", FORM + SMALL, UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nab")
    with contextlib.ExitStack() as stack:
        begun = time.monotonic()
        held = {sent: stack.enter_context(connected(url, sent)) for sent in beginnings}
        for sent, client in held.items():
            all_of(client)
            assert time.monotonic() - begun < IDLE_SECONDS + 5, sent


def test_next_to_nothing_all_along_is_not_enough(url):
    with connected(url, UPLOAD + LARGE) as client:
        client.settimeout(0.3)

        def ended():
            with contextlib.suppress(TimeoutError):
                try:
                    client.send(b"a")
                    return client.recv(1000)[:13] or b"gone"
                except ConnectionError:
                    return b"gone"

        assert until(ended) in (b"HTTP/1.1 408 ", b"gone")


def test_a_refusal_is_heard_before_the_body_has_come_and_ends_the_connection(url):
    with connected(url, SERVE + LARGE) as client:
        said = all_of(client)
    assert said.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nConnection: close" in said
    assert said.count(b"HTTP/1.1") == 1


def test_nothing_is_asked_for_that_will_be_refused(url):
    expecting = b"Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n"
    with connected(url, SERVE + expecting) as refused, connected(url, UPLOAD + expecting) as taken:
        assert all_of(refused).startswith(b"HTTP/1.1 401 ")
        assert taken.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        taken.sendall(b"x" * 1_000_000)
        assert taken.recv(100).startswith(b"HTTP/1.1 201 ")


def test_an_address_may_hold_four_hundred_runs(url):
    address = f"/healthz?{'&'.join(['run=szb7qe6uzuk7'] * 400)}"
    with connected(url, f"GET {address} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()) as client:
        assert all_of(client).startswith(b"HTTP/1.1 200 ")


def test_what_is_behind_a_request_is_the_next_one(url):
    whole = FORM.replace(b"POST", b"GET") + b"\r\n"
    with connected(url, whole + whole + whole[:30]) as client:
        time.sleep(0.2)
        client.sendall(whole[30:].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert all_of(client).count(b"HTTP/1.1 405 ") == 3


def test_a_slow_upload_arrives(url):
    with connected(url, UPLOAD + b"Content-Length: 100000\r\n\r\n") as client:
        for _ in range(10):
            client.sendall(b"x" * 10_000)
            time.sleep(IDLE_SECONDS / 5)
        assert client.recv(100).startswith(b"HTTP/1.1 201 ")


def test_an_upload_in_parts_keeps_what_came_before_its_connection_broke(url):
    began = Request(f"{url}/api/v1/checkpoints?name=a.pt", b"", {"Upload-Length": "1000000"}, method="POST")
    with urlopen(began) as answer:
        upload = answer.headers["Location"]
    head = f"PATCH {upload} HTTP/1.1\r\nHost: localhost\r\nUpload-Offset: 0\r\nContent-Length: 1000000\r\n\r\n"

    def offset():
        with urlopen(url + upload) as answer:
            return int(answer.headers["Upload-Offset"])

    with connected(url, head.encode() + b"x" * 500_000) as client:
        until(lambda: offset() > 400_000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, as when a line fails

    def complete():
        at = offset()
        rest = Request(url + upload, b"x" * (1_000_000 - at), {"Upload-Offset": str(at)}, method="PATCH")
        with contextlib.suppress(HTTPError), urlopen(rest) as answer:  # 503 until the reset is noticed
            return answer.headers["Upload-Complete"]

    assert until(complete) == "?1"


def test_a_slow_download_arrives_and_a_stalled_one_is_ended(url):
    whole = urlopen(f"{url}/static-vendor/plotly-1.min.js").read()
    asked = LIBRARY.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with connected(url, asked, buffer=1 << 16) as slow, connected(url, asked, buffer=1 << 12) as stalled:
        came = bytearray()
        while part := slow.recv(1 << 16):
            came += part
            time.sleep(2.5 * IDLE_SECONDS / (len(whole) / len(part)))
        assert came.partition(b"\r\n\r\n")[2] == whole
        time.sleep(IDLE_SECONDS)
        assert len(all_of(stalled)) < len(whole)
