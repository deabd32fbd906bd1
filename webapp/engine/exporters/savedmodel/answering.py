"""The process that loads a SavedModel and answers: `python -m webapp.engine.exporters.savedmodel.answering FOLDER N`.

It writes a line of JSON once it has loaded, and then for every message on stdin one on stdout. A message is a line of
JSON, {name: [dtype, shape]}, and after it the values of these tensors, one after the other.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

Array = np.ndarray[Any, Any]


def send(out: IO[bytes], tensors: Mapping[str, Array]) -> None:
    header = {name: [tensor.dtype.name, list(tensor.shape)] for name, tensor in tensors.items()}
    out.write(json.dumps(header).encode() + b"\n")
    for tensor in tensors.values():
        out.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    out.flush()


def receive(source: IO[bytes]) -> dict[str, Array] | None:
    """The next message; None where there is none any more. Raises EOFError where one breaks off."""
    line = source.readline()
    if not line:
        return None
    found = {}
    for name, (dtype, shape) in json.loads(line).items():
        tensor = np.empty(shape, dtype)
        room = tensor.reshape(-1).view(np.uint8)
        if source.readinto(room.data) != room.size:  # type: ignore[attr-defined]
            raise EOFError(name)
        found[name] = tensor
    return found


def main(folder: Path, threads: int) -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints goes to the log, not among the messages
    import tensorflow as tf

    from .convert import SIGNATURE

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(str(folder))
    answer = loaded.signatures[SIGNATURE]
    known = set(answer.structured_input_signature[1])
    out.write(json.dumps({"version": tf.__version__, "inputs": sorted(known)}).encode() + b"\n")
    out.flush()
    while (given := receive(sys.stdin.buffer)) is not None:
        found = answer(**{name: tf.constant(tensor) for name, tensor in given.items() if name in known})
        send(out, {name: tensor.numpy() for name, tensor in found.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
