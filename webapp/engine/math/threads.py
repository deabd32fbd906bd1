"""Work on some rows at a time by threads of Python's, each with one of torch's.

torch shares an operation among its threads, which wait for each other at its end: of operations on as few numbers as
stay in a core's cache that waiting is most of the time, and many times the work on a machine that is busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from webapp.engine.lazy import torch

SHARED = 1 << 22  # values that are worth a thread


@contextmanager
def alone() -> Iterator[int]:
    """torch keeps to one thread. Yields how many it had."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def for_rows(shape: Sequence[int], chunk: int, work: Callable[[slice], None]) -> None:
    """Calls `work` for ranges of the rows of a matrix (rows, columns), of about `chunk` values each, in no order."""
    rows, columns = shape
    each = max(1, chunk // max(columns, 1))
    some = [slice(start, min(start + each, rows)) for start in range(0, rows, each)]
    with alone() as threads:
        if threads == 1 or rows * columns < SHARED:
            for one in some:
                work(one)
            return
        inference = torch.is_inference_mode_enabled()  # what was made in it cannot be written to outside of it
        with ThreadPoolExecutor(threads) as pool:
            share = -(-len(some) // threads)

            def worked(part: int) -> None:
                torch.set_num_threads(1)
                with torch.inference_mode(inference), torch.no_grad():
                    for one in some[part * share : (part + 1) * share]:
                        work(one)

            list(pool.map(worked, range(threads)))
