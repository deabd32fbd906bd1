"""Packages are unpacked and their own tests are run: in another process, that knows nothing of Pare."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.engine.run.test_stages import Bench
from webapp.actions.packages import RunFiles, offered, pack
from webapp.actions.packages.targets import FILES
from webapp.engine.data.preprocessing import Preprocessing
from webapp.engine.exporters.onnx.signature import EXAMPLE
from webapp.store.files import FileStore
from webapp.store.models import Artifact, Checkpoint, Dataset, Run, Stage

FORMATS = ("safetensors", "onnx")


def finished(root, checkpoint, dataset, *steps, exports=FORMATS) -> RunFiles:
    """A run whose stages were really done, with its files in a store."""
    bench = Bench(root, checkpoint, dataset, exports)
    concluded = bench.run(*steps)
    files = FileStore((root / "store").as_uri())
    stages = [
        Stage(name=name, key="", files=files.put_folder(folder), facts=bench.facts[name])
        for name, folder in bench.folders.items()
    ]
    delivered = {
        name: entry for stage in stages if stage.name.startswith("export") for name, entry in stage.files.items()
    }
    given = shutil.copytree(checkpoint[0], root / "given")  # others read it too, and the store takes files away
    delivered |= {name: entry for name, entry in files.put_folder(given).items() if name not in delivered}
    proofs = {artifact["name"]: artifact for artifact in concluded["artifacts"]}
    artifacts = [
        Artifact(
            name=name,
            format=proofs.get(name, {}).get("format", "companion"),
            digest=entry["digest"],
            size_bytes=entry["size_bytes"],
            proof=proofs.get(name, {}).get("proof"),
        )
        for name, entry in delivered.items()
    ]
    facts = dataset and dataset[1].model_dump(mode="json")
    run = Run(
        name="Zwölf % <smaller>",
        checkpoint=Checkpoint(facts=checkpoint[1].model_dump(mode="json")),
        dataset=dataset and Dataset(facts=facts),
        artifacts=artifacts,
        stages=stages,
    )
    return RunFiles(run, run.delivered[0], files)


def packed(taken: RunFiles, target: str) -> bytes:
    found, model = offered(taken.run)[target]
    with taken.held:
        return b"".join(pack("package", found.content(replace(taken, model=model))))


def unpacked(taken: RunFiles, target: str, into: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(packed(taken, target))) as archive:
        assert archive.testzip() is None
        archive.extractall(into)
    return into / "package"


def without_pare(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess:
    """Code run in a package's folder, where neither Pare nor torch can be imported."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    hidden = "import sys; sys.modules['webapp'] = sys.modules['torch'] = None\n"
    return subprocess.run(
        [sys.executable, "-c", hidden + code, *arguments], cwd=folder, env=env, capture_output=True, text=True
    )


def its_tests(folder: Path, *command: str) -> subprocess.CompletedProcess:
    """Its own tests, where Pare cannot be imported."""
    start = "import runpy; sys.argv = sys.argv[1:]; runpy.run_module('unittest', run_name='__main__')"
    return without_pare(folder, start, *(command or ("unittest",)))


@pytest.mark.parametrize("target", ["onnxruntime", "flask"])
def test_a_classifier_answers_its_example_without_pare(tmp_path, mlp, labelled, target):
    taken = finished(tmp_path, mlp, labelled, ("weight_quantization", {"bits": 8}))
    folder = unpacked(taken, target, tmp_path / "out")
    done = its_tests(folder)
    assert done.returncode == 0, done.stderr
    assert f"Ran {3 if target == 'flask' else 1} test" in done.stderr
    assert "onnxruntime==" in (folder / "requirements.txt").read_text()
    with np.load(folder / EXAMPLE) as example:
        changed = dict(example)
    changed["output"] = changed["output"] + 1
    np.savez(folder / EXAMPLE, **changed)
    assert its_tests(folder).returncode == 1, "a test that cannot fail proves nothing"


def test_the_same_run_gives_the_same_bytes(tmp_path, mlp, labelled):
    taken = finished(tmp_path, mlp, labelled, ("cast", {}))
    assert packed(taken, "onnxruntime") == packed(taken, "onnxruntime")


def test_a_package_is_sent_while_it_is_made(tmp_path):
    """Neither memory nor disk has to hold it: no piece is much larger than what is read at a time."""
    (tmp_path / "weights").write_bytes(os.urandom(3_000_000))
    with (tmp_path / "weights").open("rb") as file:
        pieces = list(pack("package", {"weights": file, "README.md": "words"}))
    assert max(map(len, pieces)) < 300_000
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
        assert archive.read("package/weights") == (tmp_path / "weights").read_bytes()
        assert archive.read("package/README.md") == b"words"


def test_only_what_was_delivered_is_offered(tmp_path, mlp, labelled):
    assert offered(finished(tmp_path, mlp, labelled, ("cast", {}), exports=("safetensors",)).run) == {}


@pytest.mark.parametrize(
    ("resize", "size"), [("crop", (57, 83)), ("crop", (900, 12)), ("stretch", (57, 83)), ("pad", (57, 83))]
)
def test_images_are_prepared_as_the_run_prepared_them(tmp_path, resize, size):
    from PIL import Image

    how = Preprocessing(resize=resize, shortest=40, height=24, width=32, mean=(0.1, 0.2, 0.3), std=0.5)
    package = tmp_path / "package"
    package.mkdir()
    (package / "about.json").write_text(json.dumps({"preprocessing": how.model_dump(mode="json"), "model": ""}))
    for name in ("model.py", "images.py"):
        (package / name).write_text((FILES / name).read_text())
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    asked = "import sys, numpy, images; numpy.save(sys.argv[2], images.numbers(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", asked, tmp_path / "image.png", tmp_path / "found.npy"], cwd=package, check=True
    )
    with Image.open(tmp_path / "image.png") as image:
        expected = how.numbers(how.fitted(image))
    assert np.array_equal(np.load(tmp_path / "found.npy")[0], expected)
