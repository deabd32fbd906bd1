"""Started as a process: imports once what children need, then makes each child by fork, in milliseconds.

    python -m webapp.jobs.fork_server ENTRY OOM_SCORE

ENTRY is a module with `main(job_file) -> exit status`, and maybe `preload(*modules)`, which is called for what every
child needs, and with the modules that an order names. An order comes on the Unix socket that is stdin: JSON
{"job": path, "imports": [module, …]} with four file descriptors, which become the child's stdin, stdout, stderr and
its channel. On the channel the child says its process id when it may be killed, and this process its exit
status. When the socket closes, whoever gave the orders is gone: this process leaves, and the kernel takes its
children.

It stays single-threaded and computes nothing, for a fork copies one thread and no pool.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from types import FrameType, ModuleType

from .parent_death import die_with_parent

ORDER_BYTES = 1 << 16


class ForkServer:
    def __init__(self, work: ModuleType, oom_score: str, orders: socket.socket) -> None:
        self.work, self.oom_score, self.orders = work, oom_score, orders
        self.channels: dict[int, int] = {}  # of the children that live, by process id
        self._deaths, self._death = os.pipe()
        os.set_blocking(self._death, False)
        os.set_blocking(self._deaths, False)
        signal.set_wakeup_fd(self._death)
        signal.signal(signal.SIGCHLD, _nothing)  # the wake-up tells
        self._import()

    def serve(self) -> None:
        """Returns when the orders end."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.orders, selectors.EVENT_READ)
            selector.register(self._deaths, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj == self._deaths:
                        self._bury()
                    elif not self._obey():
                        return

    def _import(self, *modules: str) -> None:
        gc.disable()  # what is imported stays, so that looking for garbage in it takes time and finds none
        if hasattr(self.work, "preload"):
            self.work.preload(*modules)
        gc.enable()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # what importing has freed, a twelfth of it
        gc.freeze()  # what is here stays: the collector of a child need not look at it, nor copy its pages

    def _obey(self) -> bool:
        order, descriptors, *_ = socket.recv_fds(self.orders, ORDER_BYTES, 4)
        if not order:
            return False
        *pipes, channel = descriptors
        told, server = json.loads(order), os.getpid()
        if told["imports"]:
            self._import(*told["imports"])
        process_id = os.fork()
        if process_id == 0:
            self._become(server, told["job"], pipes, channel)
        self.channels[process_id] = channel
        for descriptor in pipes:
            os.close(descriptor)
        return True

    def _bury(self) -> None:
        os.read(self._deaths, 1 << 16)
        while self.channels:
            process_id, status = os.waitpid(-1, os.WNOHANG)
            if not process_id:
                return
            _say(channel := self.channels.pop(process_id), {"status": os.waitstatus_to_exitcode(status)})
            os.close(channel)

    def _become(self, server: int, job: str, pipes: list[int], channel: int) -> None:
        """The child's life. Does not return."""
        status = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (self._deaths, self._death, *self.channels.values()):
                os.close(descriptor)
            for number, descriptor in enumerate(pipes):
                os.dup2(descriptor, number)  # the first takes the place of the orders
                os.close(descriptor)
            die_with_parent(signal.SIGKILL, server, self.oom_score)
            if _say(channel, {"pid": os.getpid()}):
                os.close(channel)
                folder = Path(job).parent
                os.chdir(folder)
                os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
                status = self.work.main(job)
            sys.stdout.flush()
            sys.stderr.flush()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)  # no teardown: the answer is out


def _say(channel: int, message: dict[str, int]) -> bool:
    """Whether somebody listens."""
    try:
        os.write(channel, json.dumps(message).encode() + b"\n")
    except OSError:
        return False
    return True


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


if __name__ == "__main__":
    entry, oom_score = sys.argv[1:]
    ForkServer(importlib.import_module(entry), oom_score, socket.socket(fileno=0)).serve()
    os._exit(0)
