"""Every family, and its compressed forms, answers in TensorFlow's C++ loader as in onnxruntime, at several sizes.

All are converted in one process and answered in another, for each takes seconds to start; neither knows torch.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.engine.exporters.savedmodel.modules import Efficient, Lines, Mixed, seeded
from webapp.engine.exporters.savedmodel.runtime import environment

HERE = Path(__file__).parent
INT8 = ("weight_quantization", {"bits": 8})
FOUR_BITS = (
    "weight_quantization",
    {"bits": 4, "granularity": "group", "group_size": 16},
    {"include": ["*.attention.*"]},
)
DYNAMIC = ("dynamic_quantization", {}, {"include": ["*.layer.*.intermediate.*"]})
FACTORS = ("low_rank", {"ratio": 0.5})
FAMILIES = {
    "bert-mixed": ("BertForSequenceClassification", "bert", [FOUR_BITS, DYNAMIC]),
    "llama-8-bits": ("LlamaForCausalLM", "llama", [FACTORS, INT8]),
    "vit-static": ("ViTForImageClassification", "vit", [("static_quantization", {})]),
}
ROUNDING = ("bert-mixed", "vit-static")
MODULES = {"efficient": Efficient, "mixed": Mixed, "lines": Lines}
SIZES = ((1, 3), (4, 9), (2, 17))  # batch and tokens
SIDES = (40, 64, 97)
pytestmark = pytest.mark.skipif(find_spec("tensorflow") is None, reason="tensorflow is not installed")


class Prepared:
    """ONNX files with requests beside them, and what onnxruntime answers."""

    def __init__(self, root: Path) -> None:
        self.root, self.expected = root, {}

    def folder(self, name: str) -> Path:
        (self.root / name).mkdir()
        return self.root / name

    def add(self, name: str) -> None:
        session = onnxruntime.InferenceSession(self.root / name / "model.onnx", providers=["CPUExecutionProvider"])
        requests, answer = {}, session.get_outputs()[0].name
        for number, (batch, length) in enumerate(SIZES):
            feed = {
                given.name: _filled(given, batch, length if "int64" in given.type else SIDES[number], number)
                for given in session.get_inputs()
            }
            self.expected[name, f"{number}.{answer}"] = session.run([answer], feed)[0]
            requests |= {f"{number}.{key}": array for key, array in feed.items()}
        np.savez(self.root / name / "given.npz", **requests)

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.expected))

    def run(self, script: str, *names: str, arguments: tuple[str, ...]) -> None:
        paths = [self.root / name / argument for name in names for argument in arguments]
        command = [sys.executable, HERE / script, *paths]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stdout + done.stderr

    def differences(self, found: str) -> dict[tuple[str, str], float]:
        """The largest of each answer that is there, as a share of the largest expected value."""
        told = {}
        for (name, key), expected in self.expected.items():
            path = self.root / name / found
            if path.exists() and key in (answers := np.load(path)):
                assert answers[key].shape == expected.shape, (name, key)
                told[name, key] = float(np.abs(answers[key] - expected).max() / np.abs(expected).max())
        return told


def _filled(given, batch: int, size: int, seed: int) -> np.ndarray:
    """Whatever the input is; of a mask the end of the first row is left out, where there are several."""
    shape = [batch, *(axis if isinstance(axis, int) else size for axis in given.shape[1:])]
    if "float" in given.type:
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    if "mask" not in given.name:
        return np.random.default_rng(seed).integers(0, 40, shape)
    mask = np.ones(shape, np.int64)
    mask[0, shape[1] // 2 :] = batch == 1
    return mask


@pytest.fixture
def prepared(bench, tiny, apply_steps, given_batches, tmp_path) -> Prepared:
    import onnx_ir

    from webapp.engine.exporters.onnx.assembly import assembled
    from webapp.engine.exporters.onnx.trace import OPSET, _quietly

    made = Prepared(tmp_path / "prepared")
    made.root.mkdir()
    for name, (class_name, model_type, steps) in FAMILIES.items():
        tiny(class_name, model_type, num_hidden_layers=1).to(torch.bfloat16).save_pretrained(tmp_path / name)
        facts = bench.checkpoint(bench.zip_folder(tmp_path / name, f"{name}.zip"))
        model, _ = apply_steps((bench.out, facts), *steps, data=given_batches(facts.architecture))
        onnx_ir.save(assembled(model).model, made.folder(name) / "model.onnx")
        made.add(name)
    for name, kind in MODULES.items():
        words = kind is Lines
        example = torch.zeros(3, 8, dtype=torch.long) if words else torch.randn(3, 3, SIDES[-1], SIDES[-1])
        free = dict.fromkeys((0, 1) if words else (0, 2, 3), torch.export.Dim.AUTO)
        about = {"dynamic_shapes": (free,), "input_names": ["x"], "output_names": ["logits"], "opset_version": OPSET}
        with _quietly():
            torch.onnx.export(seeded(kind), (example,), made.folder(name) / "model.onnx", verbose=False, **about)
        made.add(name)
    return made


def test_every_family_answers_alike_in_the_loader_of_tensorflow_serving(prepared):
    asked = "llama-8-bits"
    names = [*(name for name in prepared.names if name != asked), asked]
    prepared.run("convert_all.py", *names, arguments=("model.onnx", "saved", "given.npz", "answered.npz"))
    prepared.run("c_loader.py", *prepared.names, arguments=("saved", "given.npz", "found.npz"))
    found = prepared.differences("found.npz")
    assert len(found) == len(SIZES) * (len(FAMILIES) + len(MODULES))
    wrong = {key: share for key, share in found.items() if not share < 1e-4}
    assert not {key for key in wrong if key[0] not in ROUNDING}, wrong
    assert all(share < 0.02 for share in wrong.values()), wrong  # an activation may be rounded the other way
    assert prepared.differences("answered.npz")[asked, "0.logits"] < 1e-4
