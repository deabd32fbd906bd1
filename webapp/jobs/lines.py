"""Reading lines from the two pipes of a child, without waiting longer than asked."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Iterator
from typing import IO, Any

BLOCK_BYTES = 1 << 16
LONGEST_LINE_BYTES = 256 << 20  # the facts of a large model are one line; what is longer is cut


class LineReader:
    """Yields (name, line) from pipes given by name; UTF-8, broken bytes replaced."""

    def __init__(self, **pipes: IO[bytes]) -> None:
        self._selector = selectors.DefaultSelector()
        self._pending: dict[str, bytearray] = {}
        self.more = True  # whether the last read found something
        for name, pipe in pipes.items():
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, name)
            self._pending[name] = bytearray()

    @property
    def open(self) -> bool:
        return bool(self._selector.get_map())

    def read(self, wait_seconds: float) -> Iterator[tuple[str, str]]:
        """What has come by now, or within that time; the rest of a closed pipe counts as a line."""
        if not self.open:
            self.more = False
            time.sleep(wait_seconds and min(wait_seconds, 0.05))  # pipes closed, process about to end
            return
        ready = self._selector.select(wait_seconds)
        self.more = bool(ready)
        for key, _ in ready:
            yield from self._receive(key)

    def _receive(self, key: selectors.SelectorKey) -> Iterator[tuple[str, str]]:
        name, pipe = key.data, key.fileobj
        pending = self._pending[name]
        block = os.read(pipe.fileno(), BLOCK_BYTES)  # type: ignore[union-attr]
        if block:
            last = block.rfind(b"\n")  # in the new block only: a line may be long
            end = len(pending) + last if last >= 0 else -1
            pending += block
            if end < 0 and len(pending) < LONGEST_LINE_BYTES:
                return
            whole = bytes(pending[:end]) if end >= 0 else bytes(pending)
            del pending[: end + 1 if end >= 0 else len(pending)]
        else:
            self._selector.unregister(pipe)
            whole = bytes(pending)
            pending.clear()
            if not whole:
                return
        for line in whole.decode("utf8", "replace").split("\n"):
            yield name, line

    def __enter__(self) -> LineReader:
        return self

    def __exit__(self, *ignored: Any) -> None:
        self._selector.close()
