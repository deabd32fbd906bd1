"""What a run has stored of the model that is packed: its files, and what no file of it tells."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from webapp.actions.deployments import model_facts, slug_of
from webapp.engine.exporters.onnx.signature import EXAMPLE, TOKENIZER
from webapp.engine.run.stages.base import FormatStage
from webapp.engine.run.stages.export import ExportStage
from webapp.engine.run.stages.verify import VerifyStage
from webapp.store.files import FileStore
from webapp.store.models import Artifact, Run, Stage

LONGEST_BYTES = 10_000_000  # of the small JSON files that are read whole
LONG_AGO = (1980, 1, 1, 0, 0, 0)
CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class RunFiles:
    """Files that it opens stay open until `held` is closed."""

    run: Run
    model: Artifact  # the one that the package runs
    files: FileStore
    held: ExitStack = field(default_factory=ExitStack)

    @property
    def slug(self) -> str:
        return slug_of(self.run.name)

    @property
    def title(self) -> str:
        return str(self._about["architecture"]["title"])

    @property
    def task(self) -> str | None:
        found: str | None = self._about["architecture"]["task"]
        return found

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """Of images, where they evaluated the model or it brought its own."""
        found: dict[str, Any] | None = self._about["preprocessing"]
        return found

    def has(self, name: str) -> bool:
        return any(artifact.name == name for artifact in self.run.delivered)

    def open(self, name: str) -> BinaryIO:
        return self._stored(self._artifact(name).digest)

    def exported(self) -> dict[str, BinaryIO]:
        """The model's own file, and what was written beside it."""
        return {name: self._stored(file["digest"]) for name, file in (self._stage(ExportStage).files or {}).items()}

    def example(self) -> BinaryIO:
        """What the model was asked when it was proven, and what it answered."""
        return self._stored((self._stage(VerifyStage).files or {})[EXAMPLE]["digest"])

    def written(self) -> Mapping[str, Any]:
        """What was said of the model's file when it was written."""
        return self._stage(ExportStage).facts or {}

    def about(self) -> dict[str, Any]:
        """about.json of a package: what its code has to know and the graph does not say."""
        reads = self.has(TOKENIZER) and "vocab" in self._about["architecture"]["inputs"]
        proof = self.model.proof or {}
        return {
            "title": self.title,
            "task": self.task,
            "model": self.model.name,
            "classifies": self.task in ("classification", "text-classification"),
            "classes": self._about["classes"],
            "preprocessing": self.preprocessing,
            "max_tokens": int(self._about["architecture"]["inputs"]["tokens"]) if reads else None,
            "pad": self._padding() if reads else 0,
            "ends": sorted(self._ends()) if reads else [],
            "tolerance": proof.get("tolerance", 0.0),
        }

    @property
    def _about(self) -> dict[str, Any]:
        return model_facts(self.run)

    def _stage(self, kind: type[FormatStage]) -> Stage:
        return next(stage for stage in self.run.stages if stage.name == kind.name_of(self.model.format))

    def _stored(self, digest: str) -> BinaryIO:
        return self.held.enter_context(self.files.open(digest))

    def _artifact(self, name: str) -> Artifact:
        return next(artifact for artifact in self.run.delivered if artifact.name == name)

    def _ends(self) -> set[int]:
        """The tokens with which a language model says that it is done."""
        told = [self._json(name).get("eos_token_id") for name in ("generation_config.json", "config.json")]
        each = [id_ for ids in told for id_ in (ids if isinstance(ids, list) else [ids])]
        return {id_ for id_ in each if type(id_) is int}

    def _padding(self) -> int:
        found = self._json("config.json").get("pad_token_id")
        return found if type(found) is int else 0

    def _json(self, name: str) -> Mapping[str, Any]:
        if not self.has(name) or self._artifact(name).size_bytes > LONGEST_BYTES:
            return {}
        with self.open(name) as file:
            found = json.load(file)
        return found if isinstance(found, dict) else {}


class Outgoing:
    """A file that keeps what is written only until it is taken; zipfile writes into it as into a pipe."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self._written.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        taken = b"".join(self._written)
        self._written.clear()
        return taken


def pack(folder: str, files: Mapping[str, str | BinaryIO]) -> Iterator[bytes]:
    """The bytes of a zip of `files` (path -> text, or an open file), below one folder, as they come.

    They are the same for the same files: what is large is stored as it is, texts are deflated.
    """
    out = Outgoing()
    with zipfile.ZipFile(out, "w") as archive:  # type: ignore[arg-type]
        for name in sorted(files):
            about = zipfile.ZipInfo(str(PurePosixPath(folder, name)), LONG_AGO)
            about.external_attr = 0o644 << 16
            content = files[name]
            if isinstance(content, str):
                about.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(about, content)
                continue
            with archive.open(about, "w", force_zip64=True) as member:
                while chunk := content.read(CHUNK_BYTES):
                    member.write(chunk)
                    yield out.take()
    yield out.take()
