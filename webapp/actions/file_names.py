"""What a run's files are called once they are downloaded: after the run, so that two of them are told apart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from webapp.store.models import Artifact, Run

LONGEST = 80  # characters before the ending


def file_stem(run: Run) -> str:
    """ "digits_cnn.safetensors: GPTQ 4" → "digits_cnn-gptq4"; a name that somebody gave keeps its letters."""
    checkpoint = run.checkpoint.name
    if run.name.startswith(f"{checkpoint}: "):
        bare = re.sub(r"(?<=.)\.[A-Za-z]\w{1,11}$", "", checkpoint)
        recipe = re.sub(r"\s+(?=\d)", "", run.name[len(checkpoint) + 2 :].lower())
        return dashed(f"{bare}-{recipe}")
    return dashed(run.name)


def dashed(text: str) -> str:
    """Letters and digits of any script, dots, dashes and underscores; all else becomes a dash."""
    return re.sub(r"[^\w.]+|\.\.+", "-", text).strip("-.")[:LONGEST].strip("-.") or "model"


def downloaded(stem: str, name: str) -> str:
    """ "model.onnx" → "digits_cnn-gptq4.onnx", "transformers.zip" → "digits_cnn-gptq4.transformers.zip"."""
    return f"{stem}.{name.removeprefix('model.')}"


def artifact_name(artifact: Artifact) -> str:
    """What belongs beside a model, such as config.json, is looked for under its own name and keeps it."""
    if artifact.format == "companion":
        return re.sub(r"[^\w.() -]", "-", artifact.name)
    return downloaded(file_stem(artifact.run), artifact.name)
