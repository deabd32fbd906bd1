"""Recipes on exported programs, stage by stage: proven in a file of Pare's own and in onnxruntime."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.engine.importers.exported_program.exported import CASES, FIXED, ConvEmbedAttend, export, inspected
from tests.engine.run.test_stages import Bench as Run
from webapp.engine import load
from webapp.engine.architectures.build import build
from webapp.engine.architectures.factored_layers import FactoredModule
from webapp.engine.data.batches import Batch
from webapp.engine.data.tasks import for_task
from webapp.engine.exporters import exporters
from webapp.engine.exporters.base import Loaded
from webapp.engine.exporters.onnx.signature import open_session
from webapp.engine.progress import Silent
from webapp.engine.run.measure import evaluate
from webapp.engine.run.metrics import summarise
from webapp.engine.run.proof import compare_probe, write_proof
from webapp.engine.weights.artifact import read_model
from webapp.engine.weights.model import Model

PRUNE_AND_QUANTIZE = (("magnitude_pruning", {"sparsity": 0.5}), ("weight_quantization", {"bits": 8}))


@pytest.fixture
def run(bench, tmp_path):
    """Runs a recipe on a case and on 160 samples that the module labels itself."""

    def go(name, *steps, exports=("safetensors",)):
        module, folder, checkpoint = inspected(name)
        given, dataset = (CASES | FIXED)[name][1], None
        torch.manual_seed(0)
        if checkpoint.architecture.task is None:
            shape = (160, *given[0].shape[1:])
            tokens = given[0].dtype == torch.int64
            x = torch.randint(0, checkpoint.architecture.inputs["vocab"], shape) if tokens else torch.randn(shape)
            with torch.no_grad():
                answers = module(x, *(torch.ones_like(x) for _ in given[1:]))
            np.savez(tmp_path / "d.npz", x=x.numpy(), y=answers.argmax(-1).numpy())
            facts = bench.dataset(tmp_path / "d.npz")
            dataset = bench.out, facts
        work = tmp_path / "run"
        work.mkdir()
        made = Run(work, (folder, checkpoint), dataset, exports)
        return made, made.run(*steps)

    return go


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=SLOW) for name in ("conv_embed_attend", "residual", "masked")]
)
def test_pruned_and_quantized_it_is_proven_in_every_runtime(run, name):
    _, concluded = run(name, *PRUNE_AND_QUANTIZE, exports=("safetensors", "onnx", "program", "savedmodel"))
    assert [proof["agreed"] for proof in concluded["receipt"]["proof"]] == [True] * 4
    assert concluded["result"]["size_bytes"] < 0.5 * concluded["baseline"]["size_bytes"]
    assert concluded["receipt"]["runtimes"][1]["runtime"].startswith("onnxruntime")


@pytest.mark.parametrize(
    "name", ["tokens", *(pytest.param(name, marks=pytest.mark.slow) for name in ("masked tokens", "one image"))]
)
def test_a_size_that_is_fixed_stays_so_in_every_file_beside_the_model(run, name):
    made, concluded = run(name, ("weight_quantization", {"bits": 8}), exports=("safetensors", "onnx", "program"))
    assert [proof["agreed"] for proof in concluded["receipt"]["proof"]] == [True] * 3
    size = FIXED[name][1][0].shape[1:]
    with np.load(made.folders["verify-onnx"] / "example.npz") as example:
        given = {key.removeprefix("input."): example[key] for key in example.files if key != "output"}
        assert {array.shape for array in given.values()} == {(1, *size)}
        session = open_session(made.folders["export-onnx"] / "model.onnx", threads=1)
        assert np.allclose(session.run(None, given)[0], example["output"], atol=1e-5)
    assert {tuple(each.shape) for each in session.get_inputs()} == {("batch", *size)}


def halving():
    """Five times, as a ResNet does: sides below 32 become 1 on the way."""
    widths = zip((3, 8, 8, 8, 8), (8,) * 5, strict=True)
    convolutions = [nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in widths]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


class LongKernel(ConvEmbedAttend):
    """As long as 20 tokens, and nothing around them."""

    def forward(self, tokens):
        seen = nn.functional.conv1d(self.embedding(tokens).transpose(1, 2), self.conv.weight.repeat(1, 1, 7)[..., :20])
        return self.head(seen.mean(2))


SIDES, LENGTH = {axis: Dim(f"side{axis}", min=1) for axis in (2, 3)}, {1: Dim("length", min=21, max=48)}


@pytest.mark.parametrize(
    ("make", "given", "free", "asked"),
    [
        (
            halving,
            torch.zeros(2, 3, 97, 97),
            SIDES,
            [torch.randn(2, 3, *sides) for sides in ((9, 16), (32, 32), (70, 128))],
        ),
        (
            LongKernel,
            torch.zeros(2, 30, dtype=torch.int64),
            LENGTH,
            [torch.ones(3, n, dtype=torch.int64) for n in (20, 48)],
        ),
    ],
)
def test_sizes_are_as_free_in_every_format_as_the_module_leaves_them(bench, tmp_path, make, given, free, asked):
    torch.manual_seed(0)
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):
        facts = bench.checkpoint(export(make(), (given,), tmp_path / "m.pt2", ({0: Dim("batch"), **free},)))
    model = Model.of_checkpoint(bench.out, facts)
    module = build(model)
    for form in ("onnx", "program"):
        out = tmp_path / form
        out.mkdir()
        exporters()[form].write(model, out)
        loaded = exporters()[form].load(out, model.architecture).module
        for x in asked:
            with torch.inference_mode():
                assert torch.allclose(loaded(x), module(x), atol=1e-5), (form, x.shape)


def test_factors_stay_apart(run):
    made, concluded = run("conv_embed_attend", ("low_rank", {"ratio": 0.5}))
    assert isinstance(load(made.artifact).attention.out_proj, FactoredModule)
    assert concluded["result"]["params_stored"] < concluded["baseline"]["params_stored"]


def test_calibration_and_training_reach_its_layers(run):
    """From 2 bits: of those that 4 leave, no step may be better, and then the weights are left as they were."""
    _, concluded = run("residual", ("gptq", {"bits": 2}), ("distillation", {"epochs": 6}))
    assert concluded["result"]["metrics"]["accuracy"]["value"] > 0.6  # of ten classes
    assert not [row for row in concluded["receipt"]["requested"] if not row["ok"]]


@pytest.mark.parametrize("name", ["residual", "functional", "gpt"])
def test_channels_are_cut_where_the_steps_allow_it(run, name):
    _, concluded = run(name, ("structured_pruning", {"ratio": 0.3}))
    assert concluded["receipt"]["proof"][0]["agreed"]
    assert concluded["result"]["params_total"] < concluded["baseline"]["params_total"]


def test_samples_that_are_no_tokens_are_refused(bench, tmp_path, run):
    from webapp.engine.data.batches import batches
    from webapp.engine.data.datasets import Arrays
    from webapp.engine.errors import DatasetUnfit

    make, given, dynamic = CASES["conv_embed_attend"]
    spec = bench.checkpoint(export(make(), given, tmp_path / "m.pt2", dynamic)).architecture
    with pytest.raises(DatasetUnfit, match="tokens from 0 to 59"):
        list(batches(Arrays(torch.full((4, 7), 60), None), spec, None))


class Detector(nn.Module):
    """(B, 12) to boxes, which are a thousand times as large as the scores beside them, and the places of the best."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.boxes, self.scores = nn.Linear(12, 24), nn.Linear(24, 4), nn.Linear(24, 6)

    def forward(self, x):
        h = self.body(x).relu()
        scores = self.scores(h).softmax(-1)
        return 1000 * self.boxes(h), scores, scores.argmax(-1)


class Named(Detector):
    def forward(self, x):
        return dict(zip(("boxes:0", "scores", "best"), super().forward(x), strict=True))


def detector(kind: str, path):
    """A file of each make; an ONNX one names its outputs, and a .pt2 does where the module answers with a dict."""
    torch.manual_seed(0)
    if kind == "onnx":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"input_names": ["x"], "output_names": ["boxes:0", "scores", "best"], "verbose": False}
            free = ({0: Dim.DYNAMIC},)
            torch.onnx.export(
                Detector().eval(), (torch.zeros(3, 12),), path, dynamic_shapes=free, external_data=False, **options
            )
        return path
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    make = Detector if kind == "tuple" else Named
    return export(make().to(dtype), (torch.zeros(3, 12, dtype=dtype),), path)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("tuple", ["output_0", "output_1", "output_2"]),
        ("bfloat16", ["boxes:0", "scores", "best"]),
        ("onnx", ["boxes:0", "scores", "best"]),
    ],
)
def test_every_output_is_measured_proven_and_delivered(bench, tmp_path, kind, names):
    checkpoint = bench.checkpoint(detector(kind, tmp_path / f"m.{'onnx' if kind == 'onnx' else 'pt2'}"))
    folder, x = bench.out, torch.randn(40, 12)
    np.savez(tmp_path / "x.npz", x=x.numpy())
    dataset = bench.dataset(tmp_path / "x.npz")
    formats = ("safetensors", "onnx", "program")
    (tmp_path / "run").mkdir()
    made = Run(tmp_path / "run", (folder, checkpoint), (bench.out, dataset), formats)
    concluded = made.run(("weight_quantization", {"bits": 8}))
    assert [proof["agreed"] for proof in concluded["receipt"]["proof"]] == [True] * len(formats)

    assert 0 < concluded["result"]["metrics"]["relative_error"]["value"] < 0.1

    with torch.no_grad():
        found = load(made.artifact)(x)
    assert [answer.shape[1:] for answer in found] == [(4,), (6,), ()]
    session = open_session(made.folders["export-onnx"] / "model.onnx", 1)
    assert [each.name for each in session.get_outputs()] == names
    program = torch.export.load(made.folders["export-program"] / "model.pt2").module()(x=x)
    assert (list(program) if isinstance(program, dict) else names) == names
    program = list(program.values()) if isinstance(program, dict) else program
    delivered = [session.run(None, {"x": x.numpy()}), program]
    if kind == "onnx":
        form = exporters()["savedmodel"]
        form.write(read_model(made.artifact), tmp_path)
        delivered.append(form.load(tmp_path, checkpoint.architecture).module(x))
    for answers in delivered:
        for answer, wanted in zip(answers, found, strict=True):
            assert torch.allclose(torch.as_tensor(answer).float(), wanted.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("part", ["boxes", "scores"])
def test_a_change_of_either_output_is_measured_and_spoils_the_proof(bench, tmp_path, part):
    facts = bench.checkpoint(detector("tuple", tmp_path / "m.pt2"))
    model = Model.of_checkpoint(bench.out, facts)
    write_proof(model, tmp_path, seed=0)
    original, changed = build(model), build(model)
    with torch.no_grad():
        getattr(changed, part).weight.mul_(1.5)
    spec = for_task(facts.architecture, "distance")
    data = [Batch({"x": torch.randn(20, 12)}, None, 20)]
    scores, _ = evaluate(changed, spec, data, Silent(), reference=original)
    assert 0.001 < summarise(scores, 0)["relative_error"]["value"] < 0.6
    assert not compare_probe(Loaded(changed, "a", "b"), spec, tmp_path)["agreed"]
    assert compare_probe(Loaded(original, "a", "b"), spec, tmp_path)["agreed"]


class Repeated(nn.Linear):
    def forward(self, x):
        answer = super().forward(x)
        return {"a": answer, "b": answer, "x": x}


def test_an_output_may_be_another_one_or_the_input(bench, tmp_path):
    facts = bench.checkpoint(export(Repeated(12, 4), (torch.zeros(3, 12),), tmp_path / "m.pt2"))
    model = Model.of_checkpoint(bench.out, facts)
    write_proof(model, tmp_path, seed=0)
    for form in ("safetensors", "onnx", "program"):
        (tmp_path / form).mkdir()
        exporters()[form].write(model, tmp_path / form)
        loaded = exporters()[form].load(tmp_path / form, model.architecture)
        assert compare_probe(loaded, model.architecture, tmp_path)["agreed"], form
    session = open_session(tmp_path / "onnx" / "model.onnx", 1)
    assert [each.name for each in (*session.get_inputs(), *session.get_outputs())] == ["x", "a", "b", "x_"]
