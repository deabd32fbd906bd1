"""gunicorn's threaded worker, made so that no slow client can keep the threads from the others.

A request gets a thread when its head and its small body have come; until then the event loop alone waits for it.
What is large is read and written by a thread, and only so many threads may wait for a client at a time: each of them
holds a *place*. Who sends or takes nothing for a while, or next to nothing all along, loses the connection.

gunicorn's own process, which watches the worker, imports this file too: Flask and the settings only the worker needs.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import re
import resource
import select
import selectors
import socket
import struct
import termios
import threading
import time
from contextlib import suppress
from functools import partial

from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

from webapp.actions.errors import BodyStalled, Busy

SMALL_BODY_BYTES = 1 << 16  # up to here a body is collected before a thread is asked for
HEAD_BYTES = 1 << 16  # gunicorn refuses a larger one
LEAST_BYTES_PER_SECOND = 500  # over the whole time that a client was waited for, beyond the idle limit
LOOK_SECONDS = 5.0  # how often it is looked whether a client that takes slowly takes at all
LINGER_SECONDS, LINGER_BYTES = (
    2.0,
    1 << 24,
)  # so long what still comes is thrown away, for the client to read the answer
CONNECTIONS = 1000
OTHER_FILES = 256  # that the process has open beside its connections
LENGTH = re.compile(
    rb"\r\n(?:content-length[ \t]*:[ \t]*(\d{1,18})[ \t]*|(expect)[ \t]*:[^\r]*)(?=\r\n)", re.IGNORECASE
)


def hold_place() -> None:
    """To be called before a large answer is begun: it takes a place for as long as it is sent. Raises Busy."""
    from flask import request

    client = request.environ.get("gunicorn.socket")
    if isinstance(client, Client) and not client.hold():
        raise Busy("As many files are being sent and received as Pare does at once; try again in a moment.")


class NoPlace(TimeoutError):
    """All places are taken."""


class Client(socket.socket):
    """A connection that waits for its client only while it holds a place, and not for ever."""

    places: threading.BoundedSemaphore
    idle_seconds: float
    holds = False
    moved = 0  # bytes of this request and its answer
    waited = 0.0  # seconds

    def begin(self) -> None:
        self.settimeout(self.idle_seconds)
        self.moved, self.waited = 0, 0.0

    def hold(self) -> bool:
        self.holds = self.holds or self.places.acquire(blocking=False)
        return self.holds

    def release(self) -> None:
        if self.holds:
            self.holds = False
            self.places.release()

    def recv(self, size: int, flags: int = 0) -> bytes:
        if self.gettimeout() != 0.0:
            self._wait(select.POLLIN)
        came = super().recv(size, flags)
        self.moved += len(came)
        return came

    def sendall(self, data: bytes, flags: int = 0) -> None:
        left = memoryview(data)
        while left:
            try:
                sent = os.write(self.fileno(), left)
            except BlockingIOError:
                self._wait(select.POLLOUT)
                continue
            self.moved += sent
            left = left[sent:]

    def sendfile(self, file, offset: int = 0, count: int | None = None) -> int:  # type: ignore[no-untyped-def]
        end = offset + (os.fstat(file.fileno()).st_size - offset if count is None else count)
        begun = offset
        while offset < end:
            try:
                sent = os.sendfile(self.fileno(), file.fileno(), offset, min(end - offset, 1 << 20))
            except BlockingIOError:
                self._wait(select.POLLOUT)
                continue
            if sent == 0:
                break
            self.moved += sent
            offset += sent
        return offset - begun

    def _wait(self, event: int) -> None:
        ready = select.poll()
        ready.register(self.fileno(), event)
        if ready.poll(0):
            return
        if not self.hold():
            raise NoPlace(errno.ECONNRESET, "as many clients are waited for as may be")
        patience = self.gettimeout() or 0.0
        begun = moved_at = time.monotonic()
        queued, overdue = self._queued(), False
        while not overdue and not ready.poll(1000 * min(LOOK_SECONDS, patience)):
            now, before = time.monotonic(), queued
            if (queued := self._queued()) < before:
                moved_at = now
            overdue = now - moved_at >= patience
        self.waited += time.monotonic() - begun
        if overdue or self.waited > self.idle_seconds + self.moved / LEAST_BYTES_PER_SECOND:
            raise TimeoutError(errno.ECONNRESET, "the client is too slow")  # gunicorn logs no reset

    def _queued(self) -> int:
        """Bytes that were sent and that the client's system has not taken yet; 0 where this one does not tell."""
        with suppress(OSError):
            return struct.unpack("i", fcntl.ioctl(self.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
        return 0


class ClientConnection(TConn):
    """`came` is what has come of the next request, since `begun`."""

    def __init__(self, worker: GunicornWorker, client: Client, address: object, server: object) -> None:
        super().__init__(worker.cfg, client, address, server)
        self.init()
        self.worker = worker
        self.came, self.begun, self.thrown_away = bytearray(), 0.0, 0

    def is_whole(self) -> bool:
        """Whether a thread can begin: with nothing to wait for, or with a body that is large."""
        end = self.came.find(b"\r\n\r\n")
        if end < 0:
            return len(self.came) > HEAD_BYTES
        length = 0
        for number, expects in LENGTH.findall(self.came, 0, end + 2):
            if expects:
                return True
            length = int(number)
        return length > SMALL_BODY_BYTES or len(self.came) >= end + 4 + length

    def close(self, graceful: bool = False) -> None:
        if graceful:
            self.worker.linger(self)
        else:
            super().close()


class Incoming:
    """The body as the application reads it."""

    def __init__(self, asked, connection: ClientConnection) -> None:  # type: ignore[no-untyped-def]
        self._body, self._connection = asked.body, connection
        self._expects, asked._expected_100_continue = asked._expected_100_continue, False  # said when it is read
        closes = asked.should_close
        asked.should_close = lambda: closes() or self.is_coming()  # what is not read is not waited for

    def is_coming(self) -> bool:
        """Whether the client has still to send of it."""
        reader, there = self._body.reader, self._connection.parser.unreader.buf.getbuffer().nbytes
        return bool(reader.length > there if hasattr(reader, "length") else reader.parser)

    def read(self, size: int | None = None) -> bytes:
        return self._read(self._body.read, size)

    def readline(self, size: int | None = None) -> bytes:
        return self._read(self._body.readline, size)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.readline, b"")

    def _read(self, how, size: int | None) -> bytes:  # type: ignore[no-untyped-def]
        client = self._connection.sock
        try:
            if self._expects:
                self._expects = False
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            found = how(size)
        except NoPlace as error:
            raise Busy("As many uploads come in as Pare takes at once; try again in a moment.") from error
        except TimeoutError as error:
            raise BodyStalled(
                f"Nothing, or next to nothing, came for {client.idle_seconds:g} seconds. Send it again."
            ) from error
        if not self.is_coming():
            client.release()
        return found


class Gunicorn(WSGIApplication):
    """Without what gunicorn takes from the folder that it is started in: modules, and a configuration."""

    def chdir(self) -> None:
        pass

    def load_config_from_file(self, filename: str) -> None:
        pass


def _received(client: Client) -> bytes | None:
    """What has come; nothing at its end, or where it broke; None where it is only not there yet."""
    try:
        return client.recv(HEAD_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""


class GunicornWorker(ThreadWorker):
    def init_process(self) -> None:
        from webapp.config import InstallationSettings
        from webapp.store.files import CHUNK_BYTES

        SocketUnreader.max_body_chunk = CHUNK_BYTES  # what is read ahead beyond what is asked for is copied again
        settings = InstallationSettings.load()
        Client.places = threading.BoundedSemaphore(settings.transfers_at_once)
        Client.idle_seconds = settings.client_idle_seconds
        self.gathering: dict[ClientConnection, None] = {}  # oldest first
        self.lingering: dict[ClientConnection, float] = {}  # until when
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = CONNECTIONS + OTHER_FILES
        files = wanted if most == resource.RLIM_INFINITY else min(most, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
        self.worker_connections = max(self.cfg.threads + 1, files - OTHER_FILES)
        super().init_process()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        gc.freeze()  # what the application is made of stays: to look through it for garbage held a request for 100 ms

    def accept(self, listener: socket.socket) -> None:
        if self.nr_conns >= self.worker_connections - 1:
            self.make_room()
        try:
            accepted, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self.make_room()
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        self.enqueue_req(ClientConnection(self, Client(fileno=accepted.detach()), address, listener.getsockname()))

    def make_room(self) -> None:
        """Drops the one whose request is the longest on its way."""
        for connection in self.gathering:
            return self.drop(connection)

    def enqueue_req(self, connection: ClientConnection) -> None:
        """Called by gunicorn when a request begins to come; it gets a thread when it is whole."""
        connection.came, connection.begun = bytearray(connection.parser.unreader.take_buffered()), time.monotonic()
        if connection.is_whole():
            return self.hand_over(connection)
        connection.sock.setblocking(False)
        self.gathering[connection] = None
        self.poller.register(connection.sock, selectors.EVENT_READ, partial(self.on_arrival, connection))

    def on_arrival(self, connection: ClientConnection, client: Client) -> None:
        if (came := _received(client)) is None:
            return
        connection.came += came
        if not came and b"\r\n\r\n" not in connection.came:
            self.drop(connection)
        elif not came or connection.is_whole():
            self.poller.unregister(client)
            del self.gathering[connection]
            self.hand_over(connection)

    def hand_over(self, connection: ClientConnection) -> None:
        connection.parser.unreader.unread(bytes(connection.came))
        connection.came = bytearray()
        super().enqueue_req(connection)

    def handle_request(self, asked, connection: ClientConnection):  # type: ignore[no-untyped-def]
        body, client = asked.body, connection.sock
        asked.body = Incoming(asked, connection)
        client.begin()
        try:
            return super().handle_request(asked, connection)
        finally:
            asked.body = body
            client.release()

    def murder_pending(self) -> None:
        """gunicorn's name for what it does every second: ends those that are too slow."""
        now = time.monotonic()
        for connection in tuple(self.gathering):
            patience = Client.idle_seconds + len(connection.came) / LEAST_BYTES_PER_SECOND
            if now > connection.begun + patience or not (self.alive or connection.came):
                self.drop(connection)
        for connection, until in tuple(self.lingering.items()):
            if now > until:
                self.end(connection)

    def drop(self, connection: ClientConnection) -> None:
        self.poller.unregister(connection.sock)
        del self.gathering[connection]
        self.nr_conns -= 1
        connection.close()

    def linger(self, connection: ClientConnection) -> None:
        """Closes it after the client has, or soon: were it closed over unread bytes, the answer would be lost."""
        client = connection.sock
        try:
            client.setblocking(False)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            return connection.close()
        if len(self.lingering) >= OTHER_FILES // 2:
            self.end(next(iter(self.lingering)))
        self.lingering[connection] = time.monotonic() + LINGER_SECONDS
        self.poller.register(client, selectors.EVENT_READ, partial(self.on_leftover, connection))

    def on_leftover(self, connection: ClientConnection, client: Client) -> None:
        if (came := _received(client)) is None:
            return
        connection.thrown_away += len(came)
        if not came or connection.thrown_away > LINGER_BYTES:
            self.end(connection)

    def end(self, connection: ClientConnection) -> None:
        self.poller.unregister(connection.sock)
        del self.lingering[connection]
        connection.close()
