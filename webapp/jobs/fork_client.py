"""Children from the fork server: started, watched and waited for like those of `subprocess.Popen`."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .errors import ChildDied, Stopped
from .processes import child_environment, kill_group, python

log = logging.getLogger(__name__)

OOM_SCORE = 700  # the kernel takes the child's memory before the worker's
STARTS = 3  # of the server, before a child is given up
REST_SECONDS = 60.0  # without a child: what was imported for the last ones is given back


class Fork:
    """A child that runs. `pid` is the id of its process, its group and its session."""

    def __init__(
        self, pid: int, channel: socket.socket, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]
    ) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, stderr
        self.status: int | None = None  # negative: the signal that ended it
        self._channel = channel

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        return self._look(0.0)

    def wait(self) -> int:
        """Like `poll`, but waits for the end."""
        status = self._look(None)
        assert status is not None
        return status

    def close(self) -> None:
        for end in (self._channel, self.stdin, self.stdout, self.stderr):
            end.close()

    def _look(self, wait_seconds: float | None) -> int | None:
        if self.status is None and select.select([self._channel], [], [], wait_seconds)[0]:
            told = _heard(self._channel)
            self.status = told["status"] if told else -signal.SIGKILL  # the server has died, and its children with it
        return self.status


@dataclass
class _StartedForkServer:
    process: subprocess.Popen[bytes]
    orders: socket.socket
    used_at: float = field(default_factory=time.monotonic)
    grown: bool = False  # by what orders named beside what every child needs

    @classmethod
    def started(cls, entry: str, threads: int) -> _StartedForkServer:
        """Returns before it is ready."""
        orders, theirs = socket.socketpair()
        with theirs:
            command = python("-m", "webapp.jobs.fork_server", entry, str(OOM_SCORE))
            environment = child_environment(threads)
            return cls(subprocess.Popen(command, stdin=theirs, start_new_session=True, env=environment), orders)

    def end(self) -> None:
        """And with it every child."""
        self.orders.close()
        kill_group(self.process.pid)
        self.process.wait()


class Forks:
    """Starts children of the module `entry` (see fork_server); thread-safe."""

    def __init__(self, entry: str, threads: int) -> None:
        self.entry, self.threads = entry, threads
        self._server: _StartedForkServer | None = None
        self._one_at_a_time = threading.RLock()

    @property
    def server_pid(self) -> int | None:
        """None while there is none."""
        return self._server and self._server.process.pid

    def prepare(self) -> _StartedForkServer:
        """Starts the server if there is none."""
        with self._one_at_a_time:
            if self._server is not None and self._server.process.poll() is not None:
                self._drop(self._server)
            if self._server is None:
                self._server = _StartedForkServer.started(self.entry, self.threads)
            return self._server

    def start(
        self, job_file: Path, wait_seconds: float, unwanted: Callable[[], bool], imports: Sequence[str] = ()
    ) -> Fork:
        """The child, once it has a process. `unwanted` is asked every `wait_seconds` while the server gets ready.

        The server imports `imports` for this child and all that come after.
        Raises Stopped when it is unwanted by then, ChildDied when the server does not live.
        """
        for _ in range(STARTS):
            if unwanted():
                raise Stopped("the work is not wanted any more")
            server = self.prepare()
            if fork := self._order(server, job_file, imports, wait_seconds, unwanted):
                return fork
            log.warning("The process that makes the computing processes has ended")
            self._drop(server)
        raise ChildDied(
            "The computing process does not start: what it needs cannot be imported, or something kills it at once. "
            "The worker's log says which."
        )

    def ended(self) -> None:
        """To be called when a child has: the rest begins."""
        if (server := self._server) is not None:
            server.used_at = time.monotonic()

    def rest(self, ready: bool) -> None:
        """To be called now and then while no child lives. A server that had nothing to do for a while is ended; with
        `ready` only one that has imported more than every child needs, and one that has not takes its place."""
        with self._one_at_a_time:
            server = self._server
            if server is None or time.monotonic() - server.used_at < REST_SECONDS or not (server.grown or not ready):
                return
            self._drop(server)
            if ready:
                self.prepare()

    def close(self) -> None:
        """Ends the server, and with it every child; the next child starts another."""
        if (server := self._server) is not None:
            self._drop(server)

    def _drop(self, server: _StartedForkServer) -> None:
        with self._one_at_a_time:
            if self._server is server:
                server.end()
                self._server = None

    def _order(
        self,
        server: _StartedForkServer,
        job_file: Path,
        imports: Sequence[str],
        wait_seconds: float,
        unwanted: Callable[[], bool],
    ) -> Fork | None:
        """None where the server, or the child itself, has ended at once."""
        order = json.dumps({"job": str(job_file.resolve()), "imports": imports}).encode()
        channel, theirs = socket.socketpair()
        (their_in, stdin), (stdout, their_out), (stderr, their_err) = os.pipe(), os.pipe(), os.pipe()
        own = (os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb"), os.fdopen(stderr, "rb"))
        fork = None
        try:
            with theirs, self._one_at_a_time:
                server.used_at = time.monotonic()
                server.grown |= bool(imports)
                socket.send_fds(server.orders, [order], [their_in, their_out, their_err, theirs.fileno()])
            while not select.select([channel], [], [], wait_seconds)[0]:
                if unwanted():
                    raise Stopped("the work is not wanted any more")
            if (told := _heard(channel)) and "pid" in told:  # else it has ended before it had said a word
                fork = Fork(told["pid"], channel, *own)
        except OSError:
            log.info("An order did not arrive", exc_info=True)
        finally:
            for descriptor in (their_in, their_out, their_err):
                os.close(descriptor)
            if fork is None:
                for end in (channel, *own):
                    end.close()
        return fork


def _heard(channel: socket.socket) -> dict[str, int] | None:
    """The next line of the channel; None at its end."""
    line = bytearray()
    while not line.endswith(b"\n"):
        try:
            byte = channel.recv(1)
        except ConnectionError:
            return None
        if not byte:
            return None
        line += byte
    told: dict[str, int] = json.loads(line)
    return told
