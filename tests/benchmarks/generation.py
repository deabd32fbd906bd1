"""What keeping keys and values is worth: milliseconds per token that a language model writes, with them and without.

    python -m tests.benchmarks.generation smollm2 --prompt 64 --tokens 32

Both graphs have the same weights, in onnxruntime with one thread, and are asked in turns: compare within one run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir

from tests.benchmarks.bench import prepared
from webapp.engine.architectures.kv_cache import CachedReader
from webapp.engine.exporters.onnx.assembly import assembled
from webapp.engine.exporters.onnx.signature import open_session
from webapp.engine.facts import CheckpointFacts
from webapp.engine.weights.model import Model

Step = Callable[[list[int], int], int]  # the text so far, and how much of it was not there before -> the next token


def graph(model: Model, path: Path, keep: bool) -> Path:
    onnx_ir.save(assembled(model, keep).model, path, external_data=f"{path.name}.data")
    return path


def keeping(path: Path) -> Step:
    reading = CachedReader(open_session(path, threads=1), "logits")
    return lambda ids, new: int(reading.after(np.array([ids[-new:]]))[0, -1].argmax())


def again(path: Path) -> Step:
    session = open_session(path, threads=1)

    def step(ids: list[int], new: int) -> int:
        given = np.array([ids])
        (logits,) = session.run(["logits"], {"input_ids": given, "attention_mask": np.ones_like(given)})
        return int(logits[0, -1].argmax())

    return step


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("model", choices=["smollm2"])
    asked.add_argument("--prompt", type=int, default=64)
    asked.add_argument("--tokens", type=int, default=32)
    options = asked.parse_args()
    given = prepared(options.model)["checkpoint"]
    model = Model.of_checkpoint(Path(given["folder"]), CheckpointFacts.model_validate(given["facts"]))
    prompt = np.random.default_rng(0).integers(100, 2000, options.prompt).tolist()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        ways = {
            "kept": keeping(graph(model, folder / "k.onnx", True)),
            "again": again(graph(model, folder / "a.onnx", False)),
        }
        texts, seconds = {name: list(prompt) for name in ways}, dict.fromkeys(ways, 0.0)
        for turn in range(options.tokens + 1):
            for name, step in ways.items():
                start = time.perf_counter()
                texts[name].append(step(texts[name], 1 if turn else len(prompt)))
                seconds[name] += time.perf_counter() - start if turn else 0.0  # the prompt is read by both alike
    per_token = {name: round(1000 * taken / options.tokens, 1) for name, taken in seconds.items()}
    print(json.dumps({"ms_per_token": per_token, "same_text": texts["kept"] == texts["again"]}))


if __name__ == "__main__":
    main()
