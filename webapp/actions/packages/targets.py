"""The deployment packages of a run: for each place to deploy, the model and all that runs it there."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from webapp.engine.exporters.onnx.signature import EXAMPLE, TOKENIZER

from . import readmes as words
from .stored import Taken

FILES = Path(__file__).parent / "files"
Content = Mapping[str, str | BinaryIO]


@dataclass(frozen=True)
class Target:
    """`format` is the export that it packs."""

    name: str
    title: str
    summary: str
    format: str
    content: Callable[[Taken], Content]


def _onnxruntime(taken: Taken) -> Content:
    return {
        **_runner(taken),
        "run.py": _file("run.py"),
        "requirements.txt": words.requirements(taken, ("onnxruntime", "numpy")),
        "README.md": words.onnxruntime(taken),
    }


def _flask(taken: Taken) -> Content:
    return {
        **_runner(taken),
        "app.py": _file("app.py"),
        "test_app.py": _file("test_app.py"),
        "Dockerfile": _file("Dockerfile"),
        ".dockerignore": "__pycache__\n",
        "requirements.txt": words.requirements(taken, ("flask", "gunicorn", "onnxruntime", "numpy")),
        "README.md": words.flask(taken),
    }


def _runner(taken: Taken) -> dict[str, str | BinaryIO]:
    """The model in onnxruntime, with the example that tells whether it answers here as it did."""
    beside = {name: taken.open(name) for name in (TOKENIZER,) if taken.has(name)}
    return {
        **{name: taken.open(name) for name in taken.of_format("onnx")},
        **beside,
        EXAMPLE: taken.open_stage("verify-onnx", EXAMPLE),
        "about.json": json.dumps(taken.about(), indent=2, ensure_ascii=False) + "\n",
        **({"images.py": _file("images.py")} if taken.preprocessing else {}),
        "model.py": _file("model.py"),
        "test_example.py": _file("test_example.py"),
    }


def _tensorflow_serving(taken: Taken) -> Content:
    found: dict[str, str | BinaryIO] = {}
    (archive,) = taken.of_format("savedmodel")
    inside = taken.held.enter_context(zipfile.ZipFile(taken.open(archive)))
    for member in inside.infolist():
        _, _, below = member.filename.partition("/")  # the model's own name there
        if not member.is_dir():
            found[f"{taken.slug}/{below}"] = cast(BinaryIO, taken.held.enter_context(inside.open(member)))
    return {
        **found,
        "compose.yaml": _file("compose.yaml").replace("{name}", taken.slug),
        "request.json": words.request(taken),
        "README.md": words.tensorflow_serving(taken),
    }


def _llama_cpp(taken: Taken) -> Content:
    (model,) = taken.of_format("gguf")
    return {model: taken.open(model), "README.md": words.llama_cpp(taken, model)}


TARGETS = {
    target.name: target
    for target in (
        Target(
            "onnxruntime",
            "ONNX Runtime",
            "The model, its tokenizer if it has one, ten lines of Python that run it, and a test.",
            "onnx",
            _onnxruntime,
        ),
        Target("flask", "Flask", "A small Flask app on onnxruntime with tests and a Dockerfile.", "onnx", _flask),
        Target(
            "tensorflow-serving",
            "TensorFlow Serving",
            "The version folder, a compose file and an example request.",
            "savedmodel",
            _tensorflow_serving,
        ),
        Target("llama-cpp", "llama.cpp", "The GGUF file and the command that runs it.", "gguf", _llama_cpp),
    )
}


def offered(run: Any) -> list[Target]:
    """Those whose file the run has delivered."""
    formats = {artifact.format for artifact in run.delivered}
    return [target for target in TARGETS.values() if target.format in formats]


def _file(name: str) -> str:
    return (FILES / name).read_text(encoding="utf8")


__all__ = ["TARGETS", "Target", "offered"]
