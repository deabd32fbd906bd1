"""The deployment packages of a run: for each place to deploy, the model and all that runs it there."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from webapp.engine.exporters import Exporter, served_by
from webapp.engine.exporters.onnx.signature import EXAMPLE, TOKENIZER
from webapp.store.models import Artifact, Run

from .stored import RunFiles

FILES = Path(__file__).parent / "files"
Content = Mapping[str, str | BinaryIO]


def requirements(taken: RunFiles, names: tuple[str, ...]) -> str:
    """The versions with which the model was proven."""
    beside = [*(["tokenizers"] if taken.has(TOKENIZER) else []), *(["pillow"] if taken.preprocessing else [])]
    return "".join(f"{name}=={version(name)}\n" for name in sorted((*names, *beside)))


def onnxruntime_readme(taken: RunFiles) -> str:
    text = '\n    python run.py "A text of your own"' if taken.has(TOKENIZER) else ""
    return f"""# {taken.run.name}

{taken.title}, compressed by Pare, for ONNX Runtime.

    pip install -r requirements.txt
    python -m unittest
    python run.py{text}

The test asks the model for the shipped example ({EXAMPLE}) and compares the answer with the one that was given where
the model was proven. `model.py` is all that runs it; `about.json` has what the graph does not say.
"""


def flask_readme(taken: RunFiles) -> str:
    body = '{"text": ["A text"]}' if taken.has(TOKENIZER) else '{"inputs": {"NAME": [[...]]}}'
    more = "\n    curl http://127.0.0.1:8080/predict -F image=@a.png\n" if taken.preprocessing else ""
    if taken.task == "causal-lm" and taken.has(TOKENIZER):
        more = """
    curl http://127.0.0.1:8080/continue --json '{"prompt": "Once upon a time", "tokens": 32}'
"""
    return f"""# {taken.run.name}

{taken.title}, compressed by Pare, behind a Flask endpoint.

    pip install -r requirements.txt
    python -m unittest
    python app.py

    curl http://127.0.0.1:8080/health
    curl http://127.0.0.1:8080/predict --json '{body}'
{more}
`GET /health` names the inputs and their shapes. For more than trying it:
`gunicorn --bind 0.0.0.0:8080 --workers 1 --threads 4 app:app`, or

    docker build -t {taken.slug} . && docker run -p 8080:8080 {taken.slug}

The build runs the tests: they compare the answer to the shipped example with the one that was given where the model was
proven. There is no access control here; put it behind what does that where you are. The image was not built where this
package was made.
"""


def example_request(taken: RunFiles) -> str:
    """The shipped example as a request of TensorFlow Serving's REST interface."""
    with taken.example() as file, np.load(file, allow_pickle=False) as example:
        names = [name for name in example.files if name.startswith("input.")]
        inputs = {name.removeprefix("input."): example[name].tolist() for name in names}
    return json.dumps({"signature_name": "serving_default", "inputs": inputs}) + "\n"


def tensorflow_serving_readme(taken: RunFiles) -> str:
    return f"""# {taken.run.name}

{taken.title}, compressed by Pare, as version 1 of a model for TensorFlow Serving.

    docker compose up
    curl http://127.0.0.1:8501/v1/models/{taken.slug}
    curl -X POST http://127.0.0.1:8501/v1/models/{taken.slug}:predict --data @request.json

The signature is `serving_default`; any batch size is taken. The folder was loaded by TensorFlow and answered as the
compressed model does; TensorFlow Serving itself was not run where this package was made.
"""


def llama_cpp_readme(taken: RunFiles) -> str:
    written = taken.written()
    notes = "".join(f"- {note}\n" for note in written.get("notes", ()))
    return f"""# {taken.run.name}

{taken.title}, compressed by Pare, for llama.cpp.

{(TALKS if written.get("reads_text") else COUNTS).format(model=taken.model.name)}{
        f'''
To know of the file:

{notes}'''
        if notes
        else ""
    }"""


TALKS = """    llama-cli -m {model} -p "Once upon a time" -n 64
    llama-server -m {model} --port 8080

The tokenizer is in the file, with its chat template if it has one. The server answers OpenAI's requests at
http://127.0.0.1:8080/v1/chat/completions.
"""
COUNTS = """{model} has no tokenizer, so it is for programs that give llama.cpp's library token ids and read its logits;
llama-cli and llama-server would have to read text.
"""


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
        "requirements.txt": requirements(taken, ("onnxruntime", "numpy")),
        "README.md": onnxruntime_readme(taken),
    }


def _flask(taken: RunFiles) -> Content:
    return {
        **_runner(taken),
        "app.py": _file("app.py"),
        "test_app.py": _file("test_app.py"),
        "Dockerfile": _file("Dockerfile"),
        ".dockerignore": "__pycache__\n",
        "requirements.txt": requirements(taken, ("flask", "gunicorn", "onnxruntime", "numpy")),
        "README.md": flask_readme(taken),
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
        "request.json": example_request(taken),
        "README.md": tensorflow_serving_readme(taken),
    }


def _llama_cpp(taken: RunFiles) -> Content:
    return {**taken.exported(), "README.md": llama_cpp_readme(taken)}


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
