"""A run, stage by stage: what the receipt says adds up, and it was read off the delivered file."""

import hashlib
import json
import re
import subprocess
import sys
from copy import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from tests import zoo
from tests.plug_ins import documented
from webapp.engine import load
from webapp.engine.architectures import streaming
from webapp.engine.errors import ArtifactUnproven, DatasetUnfit, ExportUnfit, RecipeInvalid
from webapp.engine.importers.gguf.importance import read_importance
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe
from webapp.engine.run import stages
from webapp.engine.run.receipt import conclude
from webapp.engine.run.receipt_text import render_text
from webapp.engine.run.stages import (
    RunGiven,
    StageJob,
    format_of,
    is_pointless,
    plan_stages,
    run_stage,
    verify,
)
from webapp.engine.run.stages.base import SourceDigests, StageResults
from webapp.engine.run.stages.job import CheckpointGiven, DatasetGiven, PromptSet, SourcesGiven, StageOutput

CAST = ("cast", {})
PRUNE_AND_QUANTIZE = [("magnitude_pruning", {"sparsity": 0.5}), ("weight_quantization", {"bits": 4})]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Bench:
    """Runs every stage of a recipe in this process, each with a folder of its own."""

    def __init__(self, root: Path, checkpoint, dataset=None, exports=(), options=None) -> None:
        self.root, self.exports, self.options, self.done = root, exports, options or {}, {}
        folder, facts = checkpoint
        digests = {"name": "a", "digest": "0" * 64}
        self.sources = SourcesGiven(
            checkpoint=CheckpointGiven(folder=folder, facts=facts, filename="a.pt", size_bytes=1, **digests),
            dataset=dataset and DatasetGiven(folder=dataset[0], facts=dataset[1], **digests),
        )

    @property
    def facts(self) -> dict:
        return {name: made.facts for name, made in self.done.items()}

    @property
    def folders(self) -> dict:
        return {name: made.folder for name, made in self.done.items()}

    def asked(self, *steps) -> RunGiven:
        recipe = Recipe.read({"steps": [{"technique": name, "settings": values} for name, values in steps]})
        return RunGiven(recipe=recipe, exports=self.exports, **self.options)

    def do(self, stage) -> None:
        output = self.root / stage.name
        output.mkdir()
        inputs = {name: self.done[name] for name in stage.inputs if name in self.done}
        job = StageJob.of(stage, self.sources, inputs, output, None).model_copy(update={"timing_seconds": 0.1})
        facts = run_stage(job, Silent())
        self.done[stage.name] = StageOutput(folder=output, facts=json.loads(json.dumps(facts, allow_nan=False)))

    def run(self, *steps) -> dict:
        for stage in plan_stages(self.asked(*steps)).values():
            self.do(stage)
        return self.concluded(*steps)

    def concluded(self, *steps, without=(), failed=None, **more) -> dict:
        """Without some stages' results."""
        done = {name: made for name, made in self.done.items() if name not in without}
        files = {
            name: {p.name: {"digest": digest(p), "size_bytes": p.stat().st_size} for p in made.folder.iterdir()}
            for name, made in done.items()
        }
        results = StageResults({name: made.facts for name, made in done.items()}, files, failed or {})
        return conclude(self.asked(*steps), self.sources, results, name="A run", **more)

    @property
    def artifact(self) -> Path:
        return self.folders["export-safetensors"] / "model.safetensors"


def labelled_by_itself(bench, module):
    """200 samples, so that the original is always right."""
    x = torch.randn(200, 64)
    np.savez(bench.root / "d.npz", x=x.numpy(), y=module(x).argmax(-1).numpy())
    facts = bench.dataset(bench.root / "d.npz", "all")
    return bench.out, facts


@pytest.fixture
def labelled(bench):
    """Samples of the MLP below."""
    return labelled_by_itself(bench, seeded_mlp())


def seeded_mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


INTEGERS = ("dynamic_quantization", {})


@pytest.fixture(scope="module")
def with_onnx(tmp_path_factory):
    """A run of INTEGERS that is done once, for tests that only read it."""
    from tests.engine.conftest import Bench as Uploads

    uploads, module = Uploads(tmp_path_factory.mktemp("uploads")), seeded_mlp()
    facts = uploads.checkpoint(uploads.save("mlp.pt", module.state_dict()))
    checkpoint = uploads.out, facts
    done = Bench(tmp_path_factory.mktemp("run"), checkpoint, labelled_by_itself(uploads, module), exports=("onnx",))
    done.run(INTEGERS)
    return done


def test_every_byte_of_the_file_is_on_the_receipt(tmp_path, mlp, labelled):
    bench = Bench(tmp_path, mlp, labelled)
    receipt = bench.run(*PRUNE_AND_QUANTIZE)["receipt"]
    size = bench.artifact.stat().st_size
    assert receipt["bytes"]["total"] == size == sum(row["bytes"] for row in receipt["bytes"]["file"])
    tensors = receipt["bytes"]["tensors"]
    assert sum(t["bytes"] for t in tensors) == receipt["bytes"]["file"][1]["bytes"]
    with safe_open(bench.artifact, "pt") as file:  # the format's own reader, which knows nothing of ours
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    parts = {part["name"]: part["bytes"] for tensor in tensors for part in tensor["parts"]}
    assert parts == {name: tensor.numel() * tensor.element_size() for name, tensor in stored.items()}


def test_credit_rows_lead_from_the_original_to_the_file(tmp_path, mlp, labelled):
    concluded = Bench(tmp_path, mlp, labelled).run(*PRUNE_AND_QUANTIZE)
    rows = concluded["receipt"]["credit"]
    assert rows[0]["bytes_before"] == concluded["baseline"]["size_bytes"]
    assert rows[-1]["bytes_after"] == concluded["result"]["size_bytes"]
    assert all(a["bytes_after"] == b["bytes_before"] for a, b in pairwise(rows))
    assert "credited to no technique" in rows[0]["note"]


def test_a_plain_cast_earns_no_technique_anything(tmp_path, mlp):
    rows = Bench(tmp_path, mlp).run(("cast", {"dtype": "float16"}))["receipt"]["credit"]
    assert rows[0]["saved"] == (64 * 48 + 480 + 58) * 2
    assert abs(rows[1]["saved"]) < 2000  # our manifest in the header, nothing more


def test_parameters_are_counted_on_the_file(tmp_path, mlp, labelled):
    bench = Bench(tmp_path, mlp, labelled)
    result = bench.run(*PRUNE_AND_QUANTIZE)["result"]
    module = load(bench.artifact)
    assert result["params_total"] == sum(p.numel() for p in module.parameters())
    assert result["params_nonzero"] == sum(int(torch.count_nonzero(p)) for p in module.parameters())
    assert result["sparsity"] == pytest.approx(1 - result["params_nonzero"] / result["params_total"])


def test_accuracy_of_the_receipt_is_that_of_the_file(tmp_path, mlp, labelled):
    bench = Bench(tmp_path, mlp, labelled)
    result = bench.run(*PRUNE_AND_QUANTIZE)["result"]
    with np.load(tmp_path / "d.npz") as data:
        right = load(bench.artifact)(torch.from_numpy(data["x"])).argmax(-1).numpy() == data["y"]
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert result["metrics"]["accuracy"]["n"] == 200
    assert result["latency_ms"]["p50"] > 0
    assert result["speed"]["ci95"][0] <= result["speed"]["ratio"] <= result["speed"]["ci95"][1]


def test_what_was_expected_stands_beside_the_divergence_that_labelled_samples_show(tmp_path, mlp, labelled):
    bench = Bench(tmp_path, mlp, labelled)
    step = ("magnitude_pruning", {"sparsity": 0.5})
    measured = bench.run(step)["result"]
    divergence = measured["metrics"]["kl_divergence"]["value"]
    loss = {"value": divergence, "low": divergence / 2, "high": divergence * 2, "unit": "nats"}
    expected = {"profile_id": "p", "size_bytes": measured["size_bytes"], "loss": loss}
    receipt = bench.concluded(step, expected=expected)["receipt"]
    rows = receipt["prediction"]["rows"]
    assert [(row["measured"], row["inside"]) for row in rows] == [(measured["size_bytes"], True), (divergence, True)]
    assert divergence > 0
    assert re.search(rf"Loss, nats .* {divergence:.3g} +inside", render_text(receipt))


def test_quality_is_on_the_receipt_after_every_step(tmp_path, mlp, labelled):
    bench = Bench(tmp_path, mlp, labelled)
    pruned = ("magnitude_pruning", {"sparsity": 0.9})
    concluded = bench.run(pruned, ("weight_quantization", {"bits": 8}), ("cast", {}))
    after = [step["metrics"]["accuracy"]["value"] for step in concluded["receipt"]["steps"]]
    alone_folder = tmp_path / "alone"
    alone_folder.mkdir()
    alone = Bench(alone_folder, mlp, labelled).run(pruned)["result"]["metrics"]["accuracy"]["value"]
    assert after[0] == pytest.approx(alone)
    assert alone < 1.0
    assert after[2] == concluded["result"]["metrics"]["accuracy"]["value"]
    assert "After each step" in render_text(concluded["receipt"])


def test_the_same_run_gives_the_same_bytes(tmp_path, mlp):
    digests = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        bench = Bench(tmp_path / name, mlp)
        bench.run(("low_rank", {"ratio": 0.5}), *PRUNE_AND_QUANTIZE)
        digests.append(digest(bench.artifact))
    assert digests[0] == digests[1]


def test_what_fell_short_is_a_row_of_its_own(tmp_path, mlp):
    receipt = Bench(tmp_path, mlp).run(("low_rank", {"by": "rank", "rank": 10}))["receipt"]
    short = [row for row in receipt["requested"] if not row["ok"]]
    assert [row["layer"] for row in short] == ["2"]
    assert "Requested vs. achieved" in render_text(receipt)


def test_without_a_dataset_it_says_so_and_still_proves(tmp_path, mlp):
    concluded = Bench(tmp_path, mlp).run(("cast", {}))
    assert concluded["result"]["metrics"] == {}
    assert "no dataset" in concluded["result"]["metrics_unavailable"]
    assert concluded["receipt"]["proof"][0]["agreed"]


def test_weights_without_an_architecture_are_compared_bit_for_bit(tmp_path, inspected):
    checkpoint = inspected({"what.ever": torch.randn(30, 20), "other": torch.randn(7)})
    assert checkpoint[1].architecture is None
    bench = Bench(tmp_path, checkpoint)
    concluded = bench.run(("magnitude_pruning", {}), ("weight_quantization", {}))
    assert "bit for bit" in concluded["receipt"]["proof"][0]["runtime"]
    assert concluded["result"]["metrics_unavailable"]


def test_a_large_model_is_streamed_and_its_receipt_says_the_same(tmp_path, bench, monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(40, 3, 8, 8)
    np.savez(bench.root / "d.npz", x=x.numpy(), y=(torch.arange(40) % 2).numpy())
    dataset = bench.dataset(bench.root / "d.npz", "all")
    data, found = (bench.out, dataset), {}
    for name, whole, timed in (("whole", 1 << 30, 1 << 30), ("streamed", 0, 1 << 30), ("untimed", 0, 0)):
        monkeypatch.setattr(streaming, "WHOLE_BYTES", whole)
        monkeypatch.setattr(verify, "MOST_TIMED_BYTES", timed)
        (tmp_path / name).mkdir()
        run = Bench(tmp_path / name, zoo.checkpoint("vit"), data)
        found[name] = run.run(("magnitude_pruning", {"sparsity": 0.5}), ("weight_quantization", {"bits": 8}))
    results = {name: one["result"] for name, one in found.items()}
    for name in ("streamed", "untimed"):
        assert results[name]["metrics"] == results["whole"]["metrics"]
        assert found[name]["receipt"]["bytes"] == found["whole"]["receipt"]["bytes"]
        assert found[name]["receipt"]["proof"][0]["agreed"]
    assert results["streamed"]["latency_ms"]["p50"] > 0
    assert results["untimed"]["latency_ms"] is None
    assert any("not timed" in note for row in found["untimed"]["receipt"]["runtimes"] for note in row["notes"])


def test_a_file_that_answers_differently_is_refused(tmp_path, mlp):
    bench = Bench(tmp_path, mlp)
    *before, last = plan_stages(bench.asked(CAST)).values()
    for stage in before:
        bench.do(stage)
    content = bytearray(bench.artifact.read_bytes())
    content[-400:] = bytes(400)
    bench.artifact.write_bytes(content)
    with pytest.raises(ArtifactUnproven, match="answered differently"):
        bench.do(last)


def test_a_format_that_writes_no_file_is_refused_by_its_name(tmp_path, mlp, monkeypatch):
    bench = Bench(tmp_path, mlp, exports=["onnx"])
    planned = plan_stages(bench.asked(CAST))
    for name in ("baseline", "step-1"):
        bench.do(planned[name])
    monkeypatch.setattr(planned["export-onnx"].exporter, "write", lambda model, folder: {"size_bytes": 1})
    with pytest.raises(ExportUnfit, match=r"ONNX was asked to write model\.onnx, and did not"):
        bench.do(planned["export-onnx"])


def test_a_dataset_of_another_shape_is_refused_with_both_shapes(tmp_path, bench, mlp):
    np.savez(tmp_path / "d.npz", x=np.zeros((10, 3), np.float32), y=np.zeros(10, np.int64))
    facts = bench.dataset(tmp_path / "d.npz", "all")
    with pytest.raises(DatasetUnfit, match="64"):
        Bench(tmp_path, mlp, (bench.out, facts)).run(("cast", {}))


def test_a_stage_is_shared_exactly_by_what_it_depends_on():
    def key(name, *steps, dataset="d", **options):
        recipe = Recipe.read({"steps": [{"technique": t, "settings": s} for t, s in steps]})
        stage = plan_stages(RunGiven(recipe=recipe, exports=("onnx",), **options))[name]
        return stage.key(SourceDigests("c", dataset))

    first, other = ("magnitude_pruning", {"sparsity": 0.5}), ("magnitude_pruning", {"sparsity": 0.6})
    assert key("step-1", first) == key("step-1", first, CAST) == key("step-1", first, dataset="e")
    assert key("step-1", first) != key("step-1", other)
    assert key("step-1", first) != key("step-1", first, seed=1)
    assert key("baseline", first) == key("baseline", other)
    assert key("baseline", first) != key("baseline", first, dataset="e")
    assert key("baseline", first) != key("baseline", first, task="distance")
    assert key("verify-safetensors", first) != key("verify-safetensors", first, dataset="e")
    assert key("original-onnx", first) == key("original-onnx", other, seed=1, dataset="e")


def test_every_artifact_has_its_proof_size_quality_and_speed_in_its_own_runtime(with_onnx):
    concluded = with_onnx.concluded(INTEGERS)
    receipt = concluded["receipt"]
    assert [proof["artifact"] for proof in receipt["proof"]] == ["model.safetensors", "model.onnx"]
    own, onnx = receipt["runtimes"]
    assert onnx["size_bytes"] == (with_onnx.folders["export-onnx"] / "model.onnx").stat().st_size
    assert "onnxruntime" in onnx["runtime"]
    assert "threads" in onnx["runtime"]
    assert "2 products multiply 8-bit integers" in onnx["notes"][0]
    assert "decodes integers and bitmasks to floats" in own["notes"][0]
    assert onnx["metrics"]["accuracy"]["n"] == own["metrics"]["accuracy"]["n"] == 200
    assert onnx["baseline"]["runtime"] == onnx["result"]["runtime"] != own["result"]["runtime"]
    assert [artifact["name"] for artifact in concluded["artifacts"][:2]] == ["model.safetensors", "model.onnx"]
    assert "onnxruntime" in receipt["provenance"]["versions"]
    assert "model.onnx" in render_text(receipt)


WHY = {"code": "out_of_memory", "message": "The computing process ran out of memory."}


def test_a_format_that_failed_is_named_with_its_reason(with_onnx):
    concluded = with_onnx.concluded(INTEGERS, without=("verify-onnx",), failed={"verify-onnx": WHY})
    row = {"artifact": "model.onnx", "format": "onnx", "title": "ONNX", "reason": WHY}
    assert concluded["receipt"]["undelivered"] == [row]
    assert "model.onnx" not in [artifact["name"] for artifact in concluded["receipt"]["artifacts"]]
    assert concluded["artifacts"][-1] | {"state": "failed", "reason": WHY, "digest": None} == concluded["artifacts"][-1]
    assert f"Not delivered: model.onnx. {WHY['message']}" in render_text(concluded["receipt"])


def test_a_format_that_is_written_later_by_other_code_says_so(with_onnx):
    earlier = with_onnx.concluded(INTEGERS, without=("verify-onnx",), failed={"verify-onnx": WHY})["receipt"]
    assert "onnxruntime" not in earlier["provenance"]["versions"]
    earlier["provenance"]["code"] = "of another day"
    receipt = with_onnx.concluded(INTEGERS, earlier=earlier)["receipt"]
    assert receipt["undelivered"] == []
    assert receipt["provenance"]["code"] == "of another day"
    (later,) = receipt["provenance"]["later"]
    assert later["artifacts"] == ["model.onnx"]
    assert "onnxruntime" in later["versions"]
    assert "model.onnx written later, by engine" in render_text(receipt)


def test_an_original_that_cannot_be_written_leaves_the_format_proven_and_not_timed(tmp_path, with_onnx):
    bench = copy(with_onnx)
    bench.root = tmp_path
    bench.done = {name: made for name, made in bench.done.items() if name not in ("original-onnx", "verify-onnx")}
    bench.do(plan_stages(bench.asked(INTEGERS))["verify-onnx"])
    verified = bench.facts["verify-onnx"]
    assert verified["proof"]["agreed"]
    assert verified["result"]["latency_ms"] is None
    assert verified["result"]["metrics"]["accuracy"]["n"] == 200
    receipt = bench.concluded(INTEGERS, failed={"original-onnx": WHY})["receipt"]
    assert receipt["undelivered"] == []
    assert f"so they are not timed. {WHY['message']}" in receipt["runtimes"][1]["notes"][-1]


# What every kind of stage promises


ASKED = RunGiven(
    recipe=Recipe.read({"steps": [{"technique": "cast"}, {"technique": "distillation"}]}),
    exports=("onnx", "program"),
    blame=(),
    prompts=(PromptSet(texts=("a", "b"), max_tokens=8),),
)


@pytest.mark.parametrize("kind", stages.stages().values(), ids=stages.stages())
def test_every_kind_of_stage_can_be_planned(kind):
    planned = plan_stages(ASKED)
    names, own = list(planned), [stage for stage in planned.values() if isinstance(stage, kind)]
    assert own, "a recipe of two steps and two more formats has each of them"
    sources = SourceDigests("c", "d")
    for stage in own:
        assert stage.name == kind.name_of(stage.which)
        assert stage.name.partition("-")[::2] == (kind.kind, stage.which)
        assert stage.title[:1].isupper()
        assert stage.weight > 0
        assert set(stage.inputs) <= set(names[: names.index(stage.name)]), "what it reads is made before it"
        assert stage.key(sources) == plan_stages(ASKED.model_copy())[stage.name].key(sources)
        assert stage.key(sources) != stage.key(SourceDigests("another", "d"))
        assert not stage.optional or stage.format, "without a format there is nothing that it could be left out of"
        assert format_of(stage.name) in (None, stage.which)
        assert stage.format in (None, format_of(stage.name))
    assert len({stage.key(sources) for stage in own}) == len(own)


def test_what_every_run_writes_comes_first_and_need_not_be_asked_for():
    found = {name: stage.format for name, stage in plan_stages(ASKED).items()}
    assert list(found) == list(plan_stages(ASKED.model_copy(update={"exports": ("safetensors", "onnx", "program")})))
    assert list(found)[4:6] == ["export-safetensors", "verify-safetensors"]
    assert {name for name, form in found.items() if form == "onnx"} == {"original-onnx", "export-onnx", "verify-onnx"}
    assert set(found.values()) == {None, "onnx", "program"}


def test_a_format_is_lost_with_its_stages_but_not_with_the_original_beside_it():
    planned = plan_stages(ASKED)
    failed = ["export-onnx", "original-program"]
    lost = [name for name, stage in planned.items() if is_pointless(stage, planned, failed)]
    assert lost == ["original-onnx", "export-onnx", "verify-onnx"]


@pytest.mark.parametrize(
    "changed", [{"exports": ("gone",)}, {"recipe": Recipe.read({"steps": [{"technique": "gone"}]})}]
)
def test_a_run_of_what_is_not_there_any_more_is_refused_with_a_sentence(changed):
    with pytest.raises(RecipeInvalid, match=r"There is no (export|technique) 'gone'"):
        [stage.key(SourceDigests("c")) for stage in plan_stages(ASKED.model_copy(update=changed)).values()]


def test_names_of_other_days_are_of_no_format():
    assert [format_of(name) for name in ("export-onnx", "step-1", "baseline", "no-such")] == ["onnx", None, None, None]


def test_planning_a_run_imports_no_torch():
    """In a clean process: the web server plans, and has no use for it."""
    probe = "import sys; from webapp.engine.run import receipt, stages; stages.stages(); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "False"


@pytest.mark.parametrize("how", ["a file", "an entry point"])
def test_the_documentation_s_stage_is_found_in_plan_work_and_receipt(tmp_path, mlp, plug_ins, how):
    source = documented("adding-a-stage.md")
    if how == "a file":
        plug_ins.file(source, "stages", "squeeze")
    else:
        plug_ins.package(source, "squeezing", {"stages": "squeeze = squeezing:SqueezeStage"})
    bench = Bench(tmp_path, mlp)
    receipt = bench.run(CAST)["receipt"]
    assert list(bench.done)[-2:] == ["verify-safetensors", "squeeze"]
    assert 0 < receipt["xz_bytes"] < receipt["bytes"]["total"]
    plug_ins.taken_away()
    assert "squeeze" not in plan_stages(bench.asked(CAST))


def test_the_importance_of_inputs_that_steps_measured_is_delivered(tmp_path, bench):
    """Those of both steps in one file, which makes a later run of the checkpoint do without data."""
    zoo.build_tiny("LlamaForCausalLM", "llama").save_pretrained(bench.root / "llama")
    zoo.write_tokenizer(bench.root / "llama")
    facts = bench.checkpoint(bench.root / "llama", in_place=True)
    checkpoint = (bench.out, facts)
    dataset = bench.dataset(bench.file("text.txt", "a b ab ba aab " * 400))
    first = {"technique": "ggml_quantization", "settings": {"type": "Q5_1"}, "layers": {"include": ["*.q_proj"]}}
    second = {"technique": "ggml_quantization", "settings": {"type": "Q4_0"}, "layers": {"exclude": ["*.q_proj"]}}
    run = Bench(tmp_path, checkpoint, (bench.out, dataset))
    asked = RunGiven(recipe=Recipe.read({"steps": [first, second]}))
    for stage in plan_stages(asked).values():
        run.do(stage)
    delivered = run.folders["export-safetensors"] / "imatrix.gguf"
    found = read_importance(delivered, "imatrix.gguf")
    assert found.lacking(facts.layers) == []
    assert found.datasets == ("a",)
    (bench.root / "llama" / "imatrix.gguf").write_bytes(delivered.read_bytes())
    assert bench.checkpoint(bench.root / "llama", in_place=True).importance == found.told() != ""
