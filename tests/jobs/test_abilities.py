"""What a worker can is told without importing it, and a run that fits none says what it lacks."""

import subprocess
import sys

import pytest

from webapp.config import InstallationSettings
from webapp.jobs import abilities
from webapp.jobs.abilities import Abilities, Needs, lacking
from webapp.store.models import Run

SMALL, LARGE = Abilities(8 * 10**9), Abilities(64 * 10**9)
WITH_TENSORFLOW = Abilities(8 * 10**9, runtimes={"tensorflow": "2.21.0"})


def test_this_machine_is_told_and_nothing_heavy_is_imported(tmp_path):
    found = Abilities.here(InstallationSettings.load(tmp_path, run_memory_limit_bytes=5))
    assert found.memory_bytes == 5
    assert {"torch", "onnxruntime"} <= found.runtimes.keys()
    assert all(found.runtimes.values())
    assert Abilities.read(found.kept()) == found
    code = (
        "import sys; from pathlib import Path; from webapp.config import InstallationSettings; "
        "from webapp.jobs.abilities import Abilities; Abilities.here(InstallationSettings.load(Path(sys.argv[1]))); "
        "assert not {'torch', 'onnxruntime', 'tensorflow', 'xllamacpp'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_a_gpu_is_told_where_the_driver_and_torch_are_of_one_mind(tmp_path, monkeypatch):
    monkeypatch.setattr(abilities, "DRIVER", tmp_path)
    monkeypatch.setattr(abilities.sys, "platform", "linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert abilities._device("2.13.0") == "cpu"  # a driver without a card
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA H200\nIRQ: 1\n")
    assert abilities._device("2.13.0") == "cuda (NVIDIA H200)"
    assert abilities._device("2.13.0+cpu") == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert abilities._device("2.13.0") == "cpu"


@pytest.mark.parametrize(
    ("workers", "needs", "fits"),
    [
        ([SMALL], Needs(), True),
        ([SMALL], Needs(8 * 10**9), True),
        ([SMALL], Needs(8 * 10**9 + 1), False),
        ([SMALL, LARGE], Needs(9 * 10**9), True),
        ([Abilities(0)], Needs(10**15), True),  # without a limit
        ([SMALL], Needs(packages=frozenset({"tensorflow"})), False),
        ([SMALL, WITH_TENSORFLOW], Needs(10**9, frozenset({"tensorflow"})), True),
        ([LARGE, WITH_TENSORFLOW], Needs(9 * 10**9, frozenset({"tensorflow"})), False),
    ],
)
def test_a_run_fits_a_worker_that_has_all_of_what_it_needs(workers, needs, fits):
    assert any(worker.fits(needs) for worker in workers) is fits
    assert (lacking(workers, needs) is None) is fits


def test_what_is_lacking_is_said():
    both = Needs(9 * 10**9, frozenset({"tensorflow"}))
    said = lacking([SMALL], both)
    assert "it needs 9.00 GB of memory, and the largest has 8.00 GB" in said
    assert "it needs tensorflow, which is installed for none" in said
    assert "no single one has 9.00 GB and tensorflow" in lacking([LARGE, WITH_TENSORFLOW], both)
    assert lacking([], both) is None  # who comes may have it


def test_what_a_run_needs_is_told_by_its_row():
    recipe = {"version": 2, "steps": [{"technique": "cast"}]}
    assert Needs.of(Run(recipe=recipe, exports=["safetensors"], needs=None)) == Needs()
    row = Run(recipe=recipe, exports=["safetensors", "savedmodel"], needs={"memory_bytes": 7})
    assert Needs.of(row) == Needs(7, frozenset({"tensorflow"}))
    assert Needs.of(Run(recipe={"steps": "?"}, exports=["gone"], needs={"memory_bytes": None})) == Needs()
    blocks = {"steps": [{"technique": "ggml_quantization"}]}
    assert Needs.of(Run(recipe=blocks, exports=["gguf"], needs=None)) == Needs(packages=frozenset({"xllamacpp"}))
