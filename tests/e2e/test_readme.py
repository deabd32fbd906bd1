"""The commands of the README, as they stand there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from webapp import samples as shipped

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(language: str, of: str) -> str:
    """The first block of this language that holds the text `of`."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    return next(found for found in blocks if of in found)


def commands(name: str) -> list[list[str]]:
    return [line.split() for line in re.findall(rf"^    ({name} .*)$", README, flags=re.MULTILINE)]


@pytest.fixture
def folder(tmp_path) -> Path:
    shutil.copy(shipped.CHECKPOINT, tmp_path / "model.safetensors")
    shutil.copy(shipped.DATASET, tmp_path / "digits.npz")
    (tmp_path / "recipe.yaml").write_text(block("yaml", "overrides:"))
    (tmp_path / "sweep.yaml").write_text(block("yaml", " step "))
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_inspect_compress_verify_and_load(folder):
    said = {line[1]: run([sys.executable, "-m", "webapp.cli", *line[1:]], folder) for line in commands("pare")}
    assert set(said) == {"inspect", "profile", "compress", "study", "verify"}
    assert len(list((folder / "sweep").glob("*/model.safetensors"))) == 6
    assert "Wanda" in said["study"]
    assert "features.conv1.weight" in said["inspect"]
    assert re.search(r"accuracy", said["compress"], flags=re.IGNORECASE)
    assert "classifier.fc2" in said["profile"]
    expected = json.loads((folder / "small/receipt.json").read_text())["prediction"]["rows"][0]
    assert expected["measured"] <= expected["expected"] <= 0.2 * shipped.CHECKPOINT.stat().st_size
    assert {"model.safetensors", "receipt.json", "recipe.yaml"} <= {
        path.name for path in (folder / "smaller").iterdir()
    }
    read = "import numpy, torch; x = torch.from_numpy(numpy.load('../digits.npz')['x_test'])\n"
    run(
        [sys.executable, "-c", read + block("python", "load(") + "\nassert logits.shape == (540, 10)"],
        folder / "smaller",
    )


@pytest.mark.skipif(not shutil.which("jq") or not shutil.which("curl"), reason="needs curl and jq")
def test_the_api_from_a_shell(folder, served):
    script = block("sh", "curl").replace("http://127.0.0.1:8000", served.url)
    said = run(["bash", "-euo", "pipefail", "-c", script], folder)
    assert '"succeeded"\nnull\n' in said, said
    assert '"says": "not larger"' in said, said
    assert (folder / "smaller.safetensors").stat().st_size < shipped.CHECKPOINT.stat().st_size / 3


def test_make_knows_every_target_that_is_named():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    named = re.findall(r"`make (\w+)`", README) + [line[1] for line in commands("make")]
    missing = [target for target in named if not re.search(rf"^{target}:", makefile, flags=re.MULTILINE)]
    assert not missing
