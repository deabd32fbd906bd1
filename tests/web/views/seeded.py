"""Rows as a finished run leaves them, without running one: what compare, receipts, shares and the API show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from tests.web.views.seeded_receipt import receipt
from webapp.store.files import FileStore
from webapp.store.models import (
    Artifact,
    ArtifactState,
    Checkpoint,
    Dataset,
    LogLine,
    Run,
    RunState,
    Stage,
    StageState,
    UploadState,
    now,
)

LAYERS = ("layers.0", "layers.2")
CONTENT = bytes(range(256)) * 40  # of every seeded artifact


def seed_checkpoint(session: Session, name: str = "digits.safetensors") -> Checkpoint:
    """An MLP 64-32-10, inspected."""
    shapes = {"layers.0.weight": [32, 64], "layers.0.bias": [32], "layers.2.weight": [10, 32], "layers.2.bias": [10]}
    facts = {
        "format": "safetensors",
        "tensors": [{"name": n, "shape": s, "dtype": "float32"} for n, s in shapes.items()],
        "layers": [
            {"name": n, "weight": f"{n}.weight", "kind": "linear", "shape": shapes[f"{n}.weight"]} for n in LAYERS
        ],
        "architecture": {
            "family": "sequential",
            "title": "MLP 64-32-10",
            "task": "classification",
            "config": {"classes": 10},
            "inputs": {"shape": [64]},
        },
        "weights_bytes": 10_008,
    }
    checkpoint = Checkpoint(
        name=name, filename=name, state=UploadState.READY, size_bytes=10_008, digest="a" * 64, facts=facts
    )
    session.add(checkpoint)
    session.commit()
    return checkpoint


def seed_dataset(session: Session, name: str = "digits.npz", shape: tuple[int, ...] = (64,)) -> Dataset:
    facts = {
        "kind": "arrays",
        "split": "70/30",
        "evaluation": {"n": 540, "digest": "b" * 64},
        "training": {"n": 1257, "digest": "c" * 64},
        "sample_shape": list(shape),
        "labels": [str(digit) for digit in range(10)],
    }
    dataset = Dataset(
        name=name, filename=name, state=UploadState.READY, size_bytes=900_000, digest="d" * 64, facts=facts
    )
    session.add(dataset)
    session.commit()
    return dataset


def metric(value: float, name: str = "accuracy") -> dict[str, Any]:
    titles = {"accuracy": "Accuracy", "perplexity": "Perplexity"}
    return {
        name: {
            "value": value,
            "n": 540,
            "ci95": [value * 0.99, value * 1.01],
            "higher_is_better": name == "accuracy",
            "title": titles[name],
            "unit": "",
        }
    }


def measured(size_bytes: int, sparsity: float, metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "size_bytes": size_bytes,
        "params_total": 2410,
        "params_nonzero": round(2410 * (1 - sparsity)),
        "params_stored": round(2410 * (1 - sparsity)),
        "sparsity": sparsity,
        "bits_per_weight": 8 * size_bytes / 2410,
        "metrics": metrics,
        "metrics_unavailable": None if metrics else "The run had no dataset.",
        "speed": {
            "ratio": 1.83,
            "ci95": [1.79, 1.88],
            "turns": 200,
            "attempts": 1,
            "disturbed": None,
            "words": "1.83 times as fast as the original",
        },
        "latency_ms": {"p50": 0.21, "p95": 0.34, "batch": 1, "threads": 1, "runtime": "torch 2", "hardware": "a CPU"},
        "layers": [
            {
                "name": name,
                "weight": f"{name}.weight",
                "kind": "linear",
                "shape": [32, 64],
                "params": 2048,
                "nonzero": 1024,
                "stored_bytes": size_bytes // 2,
                "sparsity": sparsity,
                "bits_per_weight": 8.0,
                "storage": "sparse float32 + bitmask",
            }
            for name in LAYERS
        ],
    }


def seed_run(
    session: Session,
    files: FileStore,
    folder: Path,
    checkpoint: Checkpoint,
    dataset: Dataset | None,
    name: str = "Magnitude pruning 50 %",
    size_bytes: int = 5_000,
    sparsity: float = 0.5,
    metrics: dict[str, Any] | None = None,
    baseline_metrics: dict[str, Any] | None = None,
) -> Run:
    """A run that has succeeded, with a receipt, a log and the artifact model.safetensors."""
    metrics = metric(0.95) if metrics is None else metrics
    baseline = measured(10_008, 0.0, baseline_metrics or ({n: m | {"value": 0.97} for n, m in metrics.items()}))
    result = measured(size_bytes, sparsity, metrics)
    run = Run(
        name=name,
        checkpoint_id=checkpoint.id,
        dataset_id=dataset.id if dataset else None,
        recipe={
            "version": 1,
            "steps": [{"technique": "magnitude_pruning", "version": 1, "settings": {"sparsity": 0.5}}],
        },
        state=RunState.SUCCEEDED,
        progress=1.0,
        baseline=baseline,
        result=result,
        receipt=receipt(name, baseline, result),
        started_at=now(),
        finished_at=now(),
    )
    session.add(run)
    session.flush()
    draft = folder / "model.safetensors"
    draft.write_bytes(CONTENT)
    artifact = Artifact(
        run_id=run.id,
        name="model.safetensors",
        format="safetensors",
        digest=files.put(draft),
        size_bytes=len(CONTENT),
        proof={"agreed": True},
    )
    stage = Stage(run_id=run.id, position=0, name="baseline", title="Baseline", key="k", state=StageState.SUCCEEDED)
    session.add_all([artifact, stage, *(LogLine(run_id=run.id, text=f"line {n}") for n in range(3))])
    session.commit()
    return run


def fail_format(session: Session, run: Run, reason: str) -> None:
    """As a run whose ONNX file failed leaves it."""
    why = {"code": "export_unfit", "message": reason}
    session.add(Artifact(run_id=run.id, name="model.onnx", format="onnx", state=ArtifactState.FAILED, reason=why))
    done = (StageState.SUCCEEDED, StageState.FAILED, StageState.SKIPPED)
    for position, (kind, state) in enumerate(zip(("original", "export", "verify"), done, strict=True), start=1):
        error = why if state is StageState.FAILED else None
        named = {"name": f"{kind}-onnx", "title": kind, "key": kind}
        session.add(Stage(run_id=run.id, position=position, state=state, error=error, **named))
    row = {"artifact": "model.onnx", "format": "onnx", "title": "ONNX", "reason": why}
    run.receipt = {**(run.receipt or {}), "undelivered": [row]}
    session.commit()
