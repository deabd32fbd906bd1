"""What an artifact's format declares and does. A file in this folder is a format; nothing else has to be touched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from webapp.engine.facts import ArchitectureSpec, CheckpointFacts
from webapp.engine.lazy import nn
from webapp.engine.weights.model import Model

if TYPE_CHECKING:
    from webapp.engine.exporters.onnx.trial import TracingTrial

Array = np.ndarray[Any, Any]


class RuntimeSession(Protocol):
    """Another runtime that has the file: its inputs by name, and its answer to them."""

    @property
    def inputs(self) -> Sequence[str]: ...

    def ask(self, given: Mapping[str, Array]) -> Array: ...


@dataclass(frozen=True)
class Loaded:
    """An artifact in its runtime. `module` answers a batch's inputs as the model's own does; None: weights alone.

    `model` is there where the file can be read back weight by weight, `runner` where it has its own names, `in_parts`
    where it can read a text part by part: it does, and has to answer as `module`.
    """

    module: nn.Module | None
    loaded_by: str
    runtime: str  # with its version and what decides its speed
    model: Model | None = None
    runner: RuntimeSession | None = None
    in_parts: nn.Module | None = None


class Exporter(ABC):
    """Declared by class attributes, done by `write` in one process and `open` in another."""

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]  # one sentence: what loads it, and what it keeps
    file: ClassVar[str]  # the artifact; others in its folder travel with it
    always: ClassVar[bool] = False  # written by every run: the receipt is measured on it
    beside_original: ClassVar[bool] = True  # the original is written too, and timed in the same runtime
    rounds: ClassVar[bool] = False  # it cannot hold every weight as it is: `rounded` says what it makes of them
    timed: ClassVar[bool] = True  # the runtime that `open` uses is the one that a user will run it in
    factors: ClassVar[bool] = True  # a weight that is a product of thin ones can stay so
    packages: ClassVar[tuple[str, ...]] = ()  # whose versions the receipt names

    def unfit(self, facts: CheckpointFacts) -> str | None:
        """Why this checkpoint cannot be written in the format, as a sentence; None where it can."""
        return self.lacks(facts) or facts.unwritable.get(self.name)

    @abstractmethod
    def lacks(self, facts: CheckpointFacts) -> str | None:
        """What the format needs and this checkpoint does not have, as a sentence."""

    def tried(self, trial: TracingTrial) -> str | None:
        """Why nothing can be written, as a sentence, where tracing the model shows it; asked where it is not unfit."""
        return None

    @abstractmethod
    def write(self, model: Model, folder: Path) -> Mapping[str, Any]:
        """Writes the artifact into `folder` and says how: facts for the receipt. Raises ExportUnfit."""

    @abstractmethod
    def open(self, folder: Path, spec: ArchitectureSpec | None) -> Loaded:
        """Loads what `write` left there, in this process."""

    def rounded(self, model: Model) -> Model:
        """The model whose weights were rounded as the format rounds them; asked for where it `rounds`.

        Said without what writes the file, so that the proof, which compares with this model, shows a mistake there.
        """
        raise NotImplementedError

    def arithmetic(self, written: Mapping[str, Any]) -> str:
        """What the runtime does with integers and zeros, as a sentence for the receipt; `written` by `write`."""
        return ""
