"""An inspection as the child process does it: the memory that it may take, and a sentence for what nobody foresaw."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from webapp.engine.archive import Refuse, unpacked_bytes
from webapp.engine.data.inspect import Split, inspect_dataset
from webapp.engine.data.tasks import with_task
from webapp.engine.errors import CheckpointRefused, DatasetRefused, PareError
from webapp.engine.progress import Report
from webapp.engine.weights.memory import is_want_of_memory

log = logging.getLogger(__name__)

TIMES_THE_UPLOAD = 16  # of memory: two bits become a float32, and a tensor is held while it is transposed


class InspectionJob(BaseModel, extra="forbid"):
    """`output` is an empty folder for the upload's files; a checkpoint's task is its `use`.

    `in_place`: a checkpoint that is a file or folder of this machine, and stays where it is. `importance`: its matrix.
    """

    task: Literal["inspect_checkpoint", "inspect_dataset"]
    upload: Path
    filename: str
    output: Path
    split: Split = "auto"
    dequantize: bool = False
    use: str | None = None
    in_place: bool = False
    importance: Path | None = None
    max_unpacked_bytes: int | None = None
    inspection_memory_bytes: int | None = None  # beside TIMES_THE_UPLOAD


def inspected(
    job: InspectionJob, report: Report, limit_memory: Callable[[int], None] = lambda limit_bytes: None
) -> dict[str, Any]:
    """The facts of the upload that the job names, as JSON.

    `limit_memory` is told the bytes that this may allocate. Raises PareError, or OSError where the disk is full.
    """
    upload, filename = job.upload, job.filename
    refuse = DatasetRefused if job.task == "inspect_dataset" else CheckpointRefused
    with _with_a_sentence(filename, refuse):
        size = unpacked_bytes(upload, filename, refuse, job.max_unpacked_bytes)
        if job.inspection_memory_bytes:
            limit_memory(job.inspection_memory_bytes + TIMES_THE_UPLOAD * size)
        if job.task == "inspect_dataset":
            return inspect_dataset(upload, filename, job.split, job.output, report).model_dump(mode="json")
        from webapp.engine.importers.inspect import inspect_checkpoint

        options = (job.dequantize, job.in_place, job.importance)
        facts = inspect_checkpoint(upload, filename, job.output, report, *options)
        return (with_task(facts, job.use) if job.use else facts).model_dump(mode="json")


@contextmanager
def _with_a_sentence(filename: str, refuse: Refuse) -> Iterator[None]:
    try:
        yield
    except PareError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        log.exception("The inspection of %s failed for a reason that nobody foresaw", filename)
        if is_want_of_memory(error):
            raise refuse(
                f"{filename} asks for more memory than an inspection of its size may take "
                "(setting inspection_memory_bytes); if it is what it should be, raise that, or upload a smaller one"
            ) from error
        raise refuse(
            f"{filename} is not as its format says, in a way that Pare has no sentence for. Write it again with a "
            "current version of what made it, or in another format; the log says more"
        ) from error
