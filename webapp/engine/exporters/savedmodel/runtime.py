"""A SavedModel in a process of TensorFlow's, as a module that is called like the model's own."""

from __future__ import annotations

import json
import subprocess
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from webapp.engine.architectures.program import output_names
from webapp.engine.errors import ArtifactUnproven
from webapp.engine.facts import ArchitectureSpec

from .answering import Array, receive, send
from .processes import LAST_WORDS, command, environment


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
