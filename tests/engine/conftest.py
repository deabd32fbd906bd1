"""Uploads for the engine's tests, inspected into an empty folder."""

import zipfile
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from tests import zoo as animals
from webapp.engine.data.inspect import inspect_dataset
from webapp.engine.errors import PareError
from webapp.engine.facts import CheckpointFacts
from webapp.engine.importers.inspect import inspect_checkpoint
from webapp.engine.progress import Silent
from webapp.engine.run import latency
from webapp.engine.weights.originals import original_tensors


class Bench:
    """Inspects, and looks at what is left behind. `out` is the folder of the last inspection."""

    def __init__(self, root: Path) -> None:
        self.root, self.out, self.count = root, root, 0

    def _out(self) -> Path:
        self.count += 1
        self.out = self.root / f"out{self.count}"
        self.out.mkdir()
        return self.out

    def file(self, name: str, content: bytes | str = b"") -> Path:
        path = self.root / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def zip(self, name: str, files: dict[str, bytes | str], compression: int = zipfile.ZIP_DEFLATED) -> Path:
        path = self.root / name
        with zipfile.ZipFile(path, "w", compression) as archive:
            for inside, content in files.items():
                archive.writestr(inside, content)
        return path

    def zip_folder(self, folder: Path, name: str = "model.zip", inside: str = "model") -> Path:
        files = {f"{inside}/{p.relative_to(folder)}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return self.zip(name, files)

    def save(self, name: str, value: object) -> Path:
        torch.save(value, self.root / name)
        return self.root / name

    def checkpoint(self, path: Path, filename: str | None = None, in_place: bool = False, dequantize: bool = False):
        return inspect_checkpoint(path, filename or path.name, self._out(), Silent(), dequantize, in_place)

    def dataset(self, path: Path, split="auto", filename: str | None = None):
        return inspect_dataset(path, filename or path.name, split, self._out(), Silent())

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: tensor.load() for name, tensor in original_tensors(self.out).items()}

    def refusal(self, path: Path, filename: str | None = None, in_place: bool = False) -> str:
        """The sentence with which a checkpoint is refused; nothing may be left behind."""
        with pytest.raises(PareError) as refused:
            self.checkpoint(path, filename, in_place)
        assert list(self.out.iterdir()) == [], "something was left behind"
        return refused.value.message

    def dataset_refusal(self, path: Path, split="auto") -> str:
        with pytest.raises(PareError) as refused:
            self.dataset(path, split)
        assert list(self.out.iterdir()) == [], "something was left behind"
        return refused.value.message


@pytest.fixture(scope="session", autouse=True)
def traced_once():
    """Graphs come from the zoo where another test had the same module traced.

    And torch reads the source of its ONNX operators, which it does for each graph, once.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        patched.setattr("webapp.engine.exporters.onnx.assembly.traced", animals.traced)
        yield


@pytest.fixture(scope="session", autouse=True)
def timed_briefly():
    """A run's timings have as few rounds as they may."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(latency, "MOST", latency.LEAST)
        yield


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.fixture
def tiny():
    return animals.build_tiny


@pytest.fixture
def save_tokenizer():
    return animals.write_tokenizer


@pytest.fixture
def inspected(bench):
    """A module or a state dict, saved and inspected: the folder of its normalised files, and its facts."""

    def inspect(given: nn.Module | dict[str, torch.Tensor], name: str = "given") -> tuple[Path, CheckpointFacts]:
        state = given.state_dict() if isinstance(given, nn.Module) else given
        facts = bench.checkpoint(bench.save(f"{name}.pt", state))
        return bench.out, facts

    return inspect


@pytest.fixture
def mlp(inspected):
    """64 → 48 → 10, seeded."""
    torch.manual_seed(0)
    return inspected(nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)), "mlp")


@pytest.fixture
def given_batches():
    """Seeded inputs of an architecture's own shape, in place of a dataset."""
    return animals.seeded_batches


@pytest.fixture
def apply_steps():
    """Steps applied to an inspected checkpoint as a run does it: the model, and the outcomes of the last."""
    return animals.apply_steps
