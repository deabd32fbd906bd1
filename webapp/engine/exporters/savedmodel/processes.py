"""The two processes in which TensorFlow runs, started from one that knows it not: it converts, and it answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from webapp.engine.errors import ExportUnfit, OutOfMemory

from .convert import UNFIT

PACKAGE_PARENT = Path(__file__).parents[4]
LAST_WORDS = 12  # lines


def command(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", f"{__package__}.{module}", *(str(argument) for argument in arguments)]


def environment() -> dict[str, str]:
    """This process's own, less accelerators and TensorFlow's remarks on itself, and less Keras.

    Keras 3 is read whenever TensorFlow is, for a third of its time; the older one, which nothing asks for, is not.
    """
    paths = [str(PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_USE_LEGACY_KERAS": "1",
    }


def converted(onnx: Path, folder: Path) -> dict[str, Any]:
    """Has an ONNX file written as a SavedModel in `folder`. Raises ExportUnfit, and nothing is written."""
    done = subprocess.run(command("convert", onnx, folder), capture_output=True, text=True, env=environment())
    words = done.stdout.strip().splitlines()
    if done.returncode == UNFIT:
        reason = json.loads(words[-1])["unfit"]
        raise ExportUnfit(
            f"This model cannot be written as a SavedModel: {reason} cannot be put into TensorFlow's words here. "
            "Leave this format out, or take ONNX."
        )
    if done.returncode != 0:
        raise ended(done.returncode, done.stderr)
    found: dict[str, Any] = json.loads(words[-1])
    return found


def ended(status: int, said: str) -> ExportUnfit | OutOfMemory:
    """The error for a process of TensorFlow's that ended by itself; what it said goes to this one's log."""
    words = [line for line in said.splitlines() if line.strip()][-LAST_WORDS:]
    print("\n".join(words), file=sys.stderr)
    if any("MemoryError" in line or "bad_alloc" in line or "OOM" in line for line in words):
        return OutOfMemory("TensorFlow ran out of memory. Give the run more, or leave the SavedModel out.")
    last = f": {words[-1].strip()[:300]}" if words else ""
    return ExportUnfit(f"TensorFlow ended with status {status} before it was done{last}")
