"""Rows of a run whose ONNX files are small models, as a finished run leaves them."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.orm import Session

from tests.serving.small_models import WORDS, architecture
from webapp.store.files import FileStore
from webapp.store.models import Artifact, Checkpoint, Run, RunState, Stage, StageState, UploadState

MADE = ("model.onnx",)  # by the export; the rest came with the checkpoint


def seed_onnx_run(session: Session, files: FileStore, folder: Path, name: str, task: str, **inputs: object) -> Run:
    """`folder` holds what `small_models` made."""
    (folder / "about.json").unlink()
    stored = files.put_folder(folder)
    made = {key: entry for key, entry in stored.items() if key in MADE}
    facts = {
        "format": "huggingface",
        "tensors": [],
        "layers": [],
        "weights_bytes": 8,
        "architecture": architecture(task, **inputs),
    }
    checkpoint = Checkpoint(
        name=name, filename=name, state=UploadState.READY, size_bytes=8, digest="a" * 64, facts=facts
    )
    checkpoint.files = {key: entry for key, entry in stored.items() if key not in MADE}
    session.add(checkpoint)
    session.flush()
    run = Run(name=name, checkpoint_id=checkpoint.id, recipe={}, state=RunState.SUCCEEDED)
    run.recipe = {"version": 1, "steps": [{"technique": "cast", "version": 1, "settings": {}}]}
    for position, stage in enumerate(("original-onnx", "export-onnx")):
        row = Stage(position=position, name=stage, title=stage, key=stage, state=StageState.SUCCEEDED, files=made)
        run.stages.append(row)
    run.artifacts.append(Artifact(name="model.onnx", format="onnx", **made["model.onnx"]))
    session.add(run)
    session.commit()
    return run


WRITER = {"task": "causal-lm", "tokens": 8, "vocab": len(WORDS)}
ENCODER = {"task": "embedding", "tokens": 8, "vocab": len(WORDS)}
ROWS = {"task": "classification", "shape": [3]}
