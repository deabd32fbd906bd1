"""The deployment packages of a run: for each place to deploy, the model and all that runs it there."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from webapp.engine.exporters import Exporter, served_by
from webapp.engine.exporters.onnx.signature import EXAMPLE, TOKENIZER
from webapp.store.models import Artifact, Run

from . import readmes
from .stored import RunFiles

FILES = Path(__file__).parent / "files"
Content = Mapping[str, str | BinaryIO]


@dataclass(frozen=True)
class Target:
    """What runs the model there is `runtime`: the formats that it packs are those that are `served_by` it."""

    name: str
    title: str
    summary: str
    runtime: str
    content: Callable[[RunFiles], Content]

    def formats(self) -> dict[str, Exporter]:
        """What it packs, by name."""
        return served_by(self.runtime)

    def packed(self, run: Run) -> Artifact | None:
        """The file of the run that it packs, if there is one."""
        return next((artifact for artifact in run.delivered if artifact.format in self.formats()), None)


def _onnxruntime(taken: RunFiles) -> Content:
    return {
        **_runner(taken),
        "run.py": _file("run.py"),
        "requirements.txt": readmes.requirements(taken, ("onnxruntime", "numpy")),
        "README.md": readmes.onnxruntime(taken),
    }


def _flask(taken: RunFiles) -> Content:
    return {
        **_runner(taken),
        "app.py": _file("app.py"),
        "test_app.py": _file("test_app.py"),
        "Dockerfile": _file("Dockerfile"),
        ".dockerignore": "__pycache__\n",
        "requirements.txt": readmes.requirements(taken, ("flask", "gunicorn", "onnxruntime", "numpy")),
        "README.md": readmes.flask(taken),
    }


def _runner(taken: RunFiles) -> dict[str, str | BinaryIO]:
    """The model in onnxruntime, with the example that tells whether it answers here as it did."""
    beside = {name: taken.open(name) for name in (TOKENIZER,) if taken.has(name)}
    return {
        **taken.exported(),
        **beside,
        EXAMPLE: taken.example(),
        "about.json": json.dumps(taken.about(), indent=2, ensure_ascii=False) + "\n",
        **({"images.py": _file("images.py")} if taken.preprocessing else {}),
        "model.py": _file("model.py"),
        "test_example.py": _file("test_example.py"),
    }


def _tensorflow_serving(taken: RunFiles) -> Content:
    found: dict[str, str | BinaryIO] = {}
    inside = taken.held.enter_context(zipfile.ZipFile(taken.open(taken.model.name)))
    for member in inside.infolist():
        _, _, below = member.filename.partition("/")  # the model's own name there
        if not member.is_dir():
            found[f"{taken.slug}/{below}"] = cast(BinaryIO, taken.held.enter_context(inside.open(member)))
    return {
        **found,
        "compose.yaml": _file("compose.yaml").replace("{name}", taken.slug),
        "request.json": readmes.request(taken),
        "README.md": readmes.tensorflow_serving(taken),
    }


def _llama_cpp(taken: RunFiles) -> Content:
    return {**taken.exported(), "README.md": readmes.llama_cpp(taken)}


TARGETS = {
    target.name: target
    for target in (
        Target(
            "onnxruntime",
            "ONNX Runtime",
            "The model, its tokenizer if it has one, ten lines of Python that run it, and a test.",
            "onnxruntime",
            _onnxruntime,
        ),
        Target("flask", "Flask", "A small Flask app with tests and a Dockerfile.", "onnxruntime", _flask),
        Target(
            "tensorflow-serving",
            "TensorFlow Serving",
            "The version folder, a compose file and an example request.",
            "TensorFlow Serving",
            _tensorflow_serving,
        ),
        Target("llama-cpp", "llama.cpp", "The GGUF file and the command that runs it.", "llama.cpp", _llama_cpp),
    )
}


def offered(run: Run) -> dict[str, tuple[Target, Artifact]]:
    """By name, those whose file the run has delivered, with that file."""
    return {name: (target, found) for name, target in TARGETS.items() if (found := target.packed(run)) is not None}


def _file(name: str) -> str:
    return (FILES / name).read_text(encoding="utf8")


__all__ = ["TARGETS", "Target", "offered"]
