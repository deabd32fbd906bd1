"""What an artifact's format declares and does. A file in this folder is a format; nothing else has to be touched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from webapp.engine.data.memory import ModelMemory
from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, LayerFacts
from webapp.engine.lazy import nn
from webapp.engine.weights import StoragePlan
from webapp.engine.weights.model import Model

if TYPE_CHECKING:
    from webapp.engine.exporters.onnx.trial import TracingTrial

Array = np.ndarray[Any, Any]
SLICES_BYTES = 64 << 20  # of weights that are read, turned and written some rows at a time


class RuntimeSession(Protocol):
    """Another runtime that has the file: its inputs by name, and its answer to them."""

    @property
    def inputs(self) -> Sequence[str]: ...

    def ask(self, given: Mapping[str, Array]) -> Array: ...


class NativeRuntime(Protocol):
    """The runtime that a language model's file is for, and that metrics are measured in: its answers as a `module`.

    `near`: how far they may lie from what the file's values give, as mean KL divergence in nats.
    """

    @property
    def module(self) -> nn.Module: ...

    @property
    def runtime(self) -> str: ...  # with its version and threads

    @property
    def near(self) -> float: ...

    def speed(self) -> TokensPerSecond: ...


@dataclass(frozen=True)
class TokensPerSecond:
    """Medians. `prompt`: of tokens that are read together, `generation`: one after the other, behind these."""

    prompt: float
    generation: float
    prompt_tokens: int
    new_tokens: int
    threads: int
    runtime: str

    @property
    def sentence(self) -> str:
        return (
            f"{self.prompt:,.0f} tokens per second of {self.prompt_tokens} that are read together, and "
            f"{self.generation:,.0f} of {self.new_tokens} more that are written one by one."
        )


@dataclass(frozen=True)
class Loaded:
    """An artifact in its runtime. `module` answers a batch's inputs as the model's own does; None: weights alone.

    `model` is there where the file can be read back weight by weight, `runner` where it has its own names, `in_parts`
    where it can read a text part by part: it does, and has to answer as `module`. `native`, where it is installed,
    is the runtime that the file is for, whose arithmetic is another, so that it answers nearly as `module` does.
    """

    module: nn.Module | None
    loaded_by: str
    runtime: str  # with its version and what decides its speed
    model: Model | None = None
    runner: RuntimeSession | None = None
    in_parts: nn.Module | None = None
    native: Callable[[], NativeRuntime] | None = None


@dataclass(frozen=True)
class Capabilities:
    """What a format can do: forms, stages, receipt, deployments, packages and docs ask this, never for its name."""

    holds: Literal["weights", "model", "graph"]  # what there must be: tensors, one that runs, one that can be traced
    loads_in: str  # the words of the table in docs/formats.md
    integers: str  # and how they are stored
    factors: bool = True  # a weight that is put together from factors can stay so
    zeros: bool = False  # they take less room than other values
    always: bool = False  # written by every run: the receipt is measured on it
    original: bool = True  # the original is written too, and timed in the same runtime
    rounds: bool = False  # it cannot hold every weight as it is: `rounded` says what it makes of them
    timed: bool = True  # the runtime that `load` uses is the one that a user will run it in
    served_by: str | None = None  # the runtime that deployments and deployment packages run it in
    libraries: tuple[str, ...] = ()  # whose versions the receipt names


class Exporter(ABC):
    """One format: declared by class attributes, done by `write` in one process and `load` in another.

    The web process imports it, so `write` and `load` import what they need.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]  # one sentence: what loads it, and what it keeps
    file: ClassVar[str]  # the artifact, with its suffix; others in its folder travel with it
    can: ClassVar[Capabilities]
    requires: ClassVar[tuple[str, ...]] = ()  # extras, as they are imported: only workers that have them take it

    def refuses(self, facts: CheckpointFacts) -> str | None:
        """Why this checkpoint cannot be written in the format, as a sentence; None where it can."""
        spec = facts.architecture
        if spec is None and self.can.holds != "weights":
            return f"It holds a model that runs. {facts.weights_only_because}"
        if spec is not None and self.can.holds == "graph" and not spec.inputs:
            return f"What a {spec.title} is given as input is not known here, so it cannot be traced."
        return (self.lacks(spec) if spec is not None else None) or facts.unwritable.get(self.name)

    def lacks(self, spec: ArchitectureSpec) -> str | None:
        """What more the format needs and this architecture does not have, as a sentence."""
        return None

    def holds(self, layer: LayerFacts, plan: StoragePlan) -> bool:
        """Whether a weight in this form stays so in the format: its values, and the room that it saves."""
        known = all(leaf.holds in ("floats", "integers") for leaf in plan.leaves)
        return known and (self.can.factors or not plan.factors) and (self.can.zeros or plan.stored == plan.params)

    def tried(self, trial: TracingTrial) -> str | None:
        """Why nothing can be written, as a sentence, where tracing the model shows it; asked where none refuses it."""
        return None

    def beside(self, model: Model) -> int | None:
        """Bytes of the file beside the weights, of a model that nothing has changed; None: known once it is written."""
        return None

    def writing(self, model: ModelMemory) -> int | None:
        """Bytes of memory that writing a model takes at most; None where that is not known. It goes by weights."""
        return model.reading + min(SLICES_BYTES, 2 * model.floats)

    def loading(self, model: ModelMemory) -> int:
        """Bytes of memory that the loaded file takes at most. As a whole, in float32, unless said otherwise."""
        return model.whole

    def stored(self, plan: StoragePlan) -> int:
        """Bytes of a weight in the file, where it is known what is `beside`."""
        raise NotImplementedError

    @abstractmethod
    def write(self, model: Model, folder: Path) -> Mapping[str, Any]:
        """Writes the artifact into `folder`; {"size_bytes", "notes"?, …}, facts for the receipt. Raises ExportUnfit."""

    @abstractmethod
    def load(self, folder: Path, spec: ArchitectureSpec | None) -> Loaded:
        """Loads what `write` left there, in this process."""

    def rounded(self, model: Model) -> Model:
        """The model whose weights were rounded as the format rounds them; asked for where the format rounds.

        Said without what writes the file, so that the proof, which compares with this model, shows a mistake there.
        """
        raise NotImplementedError

    def arithmetic(self, written: Mapping[str, Any]) -> str:
        """What the runtime does with integers and zeros, as a sentence for the receipt; `written` by `write`."""
        return ""
