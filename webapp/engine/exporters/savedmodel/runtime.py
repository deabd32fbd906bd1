"""A SavedModel in a process of TensorFlow's, as a module that is called like the model's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from webapp.engine.architectures.program import output_names
from webapp.engine.errors import ArtifactUnproven, ExportUnfit, OutOfMemory
from webapp.engine.facts import ArchitectureSpec

from .answering import Array, receive, send
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


class ServedModule(nn.Module):
    """Runs on the processor, with as many threads as torch has here. The process ends with the module."""

    def __init__(self, folder: Path, spec: ArchitectureSpec, unpacked: tempfile.TemporaryDirectory[str]) -> None:
        super().__init__()
        threads = torch.get_num_threads()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (ends with the process; a pipe that nobody reads would fill)
        self._process = subprocess.Popen(
            command("answering", folder, threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment(),
        )
        weakref.finalize(self, _end, self._process, self._said, unpacked)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in: IO[bytes] = self._process.stdin
        self._out: IO[bytes] = self._process.stdout
        self.named = spec.family == "transformers"
        self.answers = None if self.named else output_names(spec)  # in their order, which a SavedModel does not keep
        self.takes = tuple(spec.inputs.get("names", ("x",)))  # in the order in which our own module takes them
        if not (hello := self._out.readline()):
            raise self._death()
        told = json.loads(hello)
        version, self.inputs = told["version"], list[str](told["inputs"])
        several = "threads" if threads > 1 else "thread"
        self.runtime = f"TensorFlow {version}, CPU, {threads} {several} within an operator, asked through a pipe"

    def forward(self, *given: Tensor, use_cache: bool = False, **named: Tensor) -> Any:
        inputs = named or dict(zip(self.takes, given, strict=True))
        answers = self._asked({name: tensor.numpy() for name, tensor in inputs.items()})
        tensors = {name: torch.from_numpy(array) for name, array in answers.items()}
        if self.answers is None:
            return tensors
        return [tensors[name] for name in self.answers] if self.answers[1:] else tensors[self.answers[0]]

    def ask(self, given: Mapping[str, Array]) -> Array:
        """The first answer to arrays under the inputs' names."""
        found = self._asked(given)
        return found[self.answers[0] if self.answers else next(iter(found))]

    def _asked(self, given: Mapping[str, Array]) -> dict[str, Array]:
        try:
            send(self._in, given)
            found = receive(self._out)
        except (BrokenPipeError, EOFError) as error:
            raise self._death() from error
        if found is None:
            raise self._death()
        return found

    def _death(self) -> ArtifactUnproven:
        status = self._process.wait()
        self._said.seek(0)
        words = self._said.read().decode(errors="replace").strip().splitlines()[-LAST_WORDS:]
        last = f": {words[-1].strip()[:300]}" if words else ""
        return ArtifactUnproven(f"TensorFlow ended with status {status} when it was given the SavedModel{last}")


def _end(process: subprocess.Popen[bytes], said: IO[bytes], unpacked: tempfile.TemporaryDirectory[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, said):
        assert pipe is not None
        pipe.close()
    unpacked.cleanup()
