"""What a file in this folder provides: one way to read an upload without trusting it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from webapp.engine.facts import LayerFacts
from webapp.engine.plugins import Accepted
from webapp.engine.progress import Report
from webapp.engine.weights.held import FiledWeight
from webapp.engine.weights.safetensors import LazyTensor


@dataclass(frozen=True)
class UntrustedFile:
    """What was uploaded; a folder only where somebody named its path. `scratch` is empty, and lives as long as the
    inspection."""

    path: Path
    filename: str  # as its owner calls it
    scratch: Path
    report: Report
    dequantize: bool = False  # asked for by the owner; without it weights that are quantized already are refused
    only: str | None = None  # of a folder, the file of weights that was named
    in_place: bool = False  # somebody named its path: what lies beside it may belong to it


@dataclass
class Opened:
    """An upload that was understood, and none of whose tensors is in memory yet."""

    tensors: dict[str, LazyTensor]  # in the upload's order; a tied tensor once
    tied: dict[str, str] = field(default_factory=dict)  # alias -> the name in `tensors`
    config: dict[str, Any] | None = None  # config.json
    files: dict[str, Path] = field(default_factory=dict)  # path in the normalised folder -> where it lies now
    sources: dict[str, Path] = field(default_factory=dict)  # of a folder, what was read: path in it -> where it lies
    metadata: dict[str, str] = field(default_factory=dict)  # of a safetensors upload
    notes: list[str] = field(default_factory=list)
    weights_only_because: str | None = None  # a sentence, where the format has an architecture that cannot be run
    layers: tuple[LayerFacts, ...] | None = None  # where the format tells them and there is no architecture
    infinite: frozenset[str] = frozenset()  # tensors that may hold infinities: masks, for one
    blocks: dict[str, tuple[str, LazyTensor]] = field(default_factory=dict)  # of `tensors`: (llama.cpp's type, uint8)
    stored: dict[str, FiledWeight] = field(default_factory=dict)  # of a file of Pare: weights that are no plain tensors
    activations: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # of a file of Pare, as its metadata tells them
    architecture: dict[str, Any] | None = None  # likewise
    importance: tuple[str, Path] | None = None  # an importance matrix that lies beside the weights: its name, and where


class Importer(ABC):
    """One format. What it declares is read by the upload page, the file dialog, refusals, the API and the docs.

    The web process imports it, so `open` imports what it needs.
    """

    name: ClassVar[str]  # CheckpointFacts.format
    accepts: ClassVar[Accepted]
    priority: ClassVar[int] = 100  # the lowest is asked first whether an upload is its own
    graph: ClassVar[bool] = False  # it tells how its tensors are connected, whatever the architecture
    dequantizes: ClassVar[bool] = False  # weights that are quantized already become floats again where that is asked

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        """Whether the file's bytes are of this format. `head` are the first 512 of them."""

    @classmethod
    @abstractmethod
    def open(cls, upload: UntrustedFile) -> Opened:
        """Reads names, shapes and dtypes. Raises CheckpointRefused."""
