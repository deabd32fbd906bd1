"""A run, stage by stage: what the receipt says adds up, and it was read off the delivered file."""

import hashlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from webapp.engine import load
from webapp.engine.errors import ArtifactUnproven, DatasetUnfit
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe
from webapp.engine.run.plan import stage_key, stages
from webapp.engine.run.receipt import conclude
from webapp.engine.run.receipt_text import render_text
from webapp.engine.run.stages import StageJob, run_stage

PRUNE_AND_QUANTIZE = [("magnitude_pruning", {"sparsity": 0.5}), ("weight_quantization", {"bits": 4})]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Bench:
    """Runs every stage of a recipe in this process, each with a folder of its own."""

    def __init__(self, root: Path, checkpoint, dataset=None, exports=("safetensors",), options=None) -> None:
        self.exports, self.options = exports, options or {}
        self.root, self.facts, self.folders = root, {}, {}
        folder, facts = checkpoint
        about = {"name": "a", "filename": "a.pt", "digest": "0" * 64, "size_bytes": 1}
        self.checkpoint = {"folder": str(folder), "facts": facts.model_dump(mode="json"), **about}
        self.dataset = None
        if dataset:
            folder, facts = dataset
            self.dataset = {"folder": str(folder), "facts": facts.model_dump(mode="json"), "name": "d", "digest": "1"}

    def job(self, recipe: Recipe, plan) -> StageJob:
        output = self.root / plan.name
        output.mkdir()
        self.folders[plan.name] = output
        return StageJob.model_validate(
            {
                "stage": plan.name,
                "run": {"recipe": recipe.as_dict(), "exports": self.exports, "options": self.options},
                "checkpoint": self.checkpoint,
                "dataset": self.dataset,
                "inputs": {name: str(self.folders[name]) for name in plan.inputs},
                "inputs_facts": {name: self.facts[name] for name in plan.inputs},
                "output": str(output),
            }
        )

    def run(self, *steps) -> dict:
        recipe = Recipe.read({"steps": [{"technique": name, "settings": values} for name, values in steps]})
        for plan in stages(recipe, self.exports):
            facts = run_stage(self.job(recipe, plan), Silent())
            self.facts[plan.name] = json.loads(json.dumps(facts, allow_nan=False))
        files = {
            stage: {p.name: {"digest": digest(p), "size_bytes": p.stat().st_size} for p in folder.iterdir()}
            for stage, folder in self.folders.items()
        }
        run = {"name": "A run", "recipe": recipe.as_dict(), "seed": 0, "options": self.options}
        return conclude(run, self.checkpoint, self.dataset, None, self.facts, files)

    @property
    def artifact(self) -> Path:
        return self.folders["export-safetensors"] / "model.safetensors"


@pytest.fixture
def labelled(bench, tmp_path):
    """200 samples that the seeded MLP below labels itself, so that the original is always right."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    x = torch.randn(200, 64)
    np.savez(tmp_path / "d.npz", x=x.numpy(), y=module(x).argmax(-1).numpy())
    facts = bench.dataset(tmp_path / "d.npz", "all")
    return bench.out, facts


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


def test_a_file_that_answers_differently_is_refused(tmp_path, mlp):
    bench = Bench(tmp_path, mlp)
    recipe = Recipe.read({"steps": [{"technique": "cast"}]})
    *before, last = stages(recipe)
    for plan in before:
        bench.facts[plan.name] = run_stage(bench.job(recipe, plan), Silent())
    content = bytearray(bench.artifact.read_bytes())
    content[-400:] = bytes(400)
    bench.artifact.write_bytes(content)
    with pytest.raises(ArtifactUnproven, match="answered differently"):
        run_stage(bench.job(recipe, last), Silent())


def test_a_dataset_of_another_shape_is_refused_with_both_shapes(tmp_path, bench, mlp):
    np.savez(tmp_path / "d.npz", x=np.zeros((10, 3), np.float32), y=np.zeros(10, np.int64))
    facts = bench.dataset(tmp_path / "d.npz", "all")
    with pytest.raises(DatasetUnfit, match="64"):
        Bench(tmp_path, mlp, (bench.out, facts)).run(("cast", {}))


def test_a_stage_is_shared_exactly_by_what_it_depends_on():
    def key(name, *steps, dataset="d", seed=0):
        recipe = Recipe.read({"steps": [{"technique": t, "settings": s} for t, s in steps]})
        return stage_key(name, recipe, ["safetensors"], seed, {}, "c", dataset)

    first, other = ("magnitude_pruning", {"sparsity": 0.5}), ("magnitude_pruning", {"sparsity": 0.6})
    assert key("step-1", first) == key("step-1", first, ("cast", {})) == key("step-1", first, dataset="e")
    assert key("step-1", first) != key("step-1", other)
    assert key("step-1", first) != key("step-1", first, seed=1)
    assert key("baseline", first) == key("baseline", other)
    assert key("baseline", first) != key("baseline", first, dataset="e")
    assert key("verify-safetensors", first) != key("verify-safetensors", first, dataset="e")


def test_every_artifact_has_its_proof_size_quality_and_speed_in_its_own_runtime(tmp_path, mlp, labelled):
    bench = Bench(tmp_path, mlp, labelled, exports=("safetensors", "onnx"))
    concluded = bench.run(("dynamic_quantization", {}))
    receipt = concluded["receipt"]
    assert [proof["artifact"] for proof in receipt["proof"]] == ["model.safetensors", "model.onnx"]
    own, onnx = receipt["runtimes"]
    assert onnx["size_bytes"] == (bench.folders["export-onnx"] / "model.onnx").stat().st_size
    assert "onnxruntime" in onnx["runtime"]
    assert "threads" in onnx["runtime"]
    assert "2 products multiply 8-bit integers" in onnx["notes"][0]
    assert "decodes them to floats" in own["notes"][0]
    assert onnx["metrics"]["accuracy"]["n"] == own["metrics"]["accuracy"]["n"] == 200
    assert onnx["baseline"]["runtime"] == onnx["result"]["runtime"] != own["result"]["runtime"]
    assert [artifact["name"] for artifact in concluded["artifacts"][:2]] == ["model.safetensors", "model.onnx"]
    assert "onnxruntime" in receipt["provenance"]["versions"]
    assert "model.onnx" in render_text(receipt)


def test_the_original_in_another_format_is_shared_by_every_recipe():
    recipes = [Recipe.read({"steps": [{"technique": "cast"}]}), Recipe.read({"steps": [{"technique": "low_rank"}]})]
    exports = ("safetensors", "onnx")
    keys = {stage_key("original-onnx", recipe, exports, 0, {}, "c", "d") for recipe in recipes}
    assert len(keys) == 1
    assert "original-onnx" in next(p.inputs for p in stages(recipes[0], exports) if p.name == "verify-onnx")


def test_a_format_that_failed_is_named_with_its_reason(tmp_path, mlp):
    bench = Bench(tmp_path, mlp)
    bench.run(("cast", {}))
    run = {"name": "A run", "recipe": {"version": 1, "steps": [{"technique": "cast"}]}, "seed": 0, "options": {}}
    files = {stage: {"model.safetensors": {"digest": "0", "size_bytes": 1}} for stage in bench.folders}
    why = {"code": "artifact_unproven", "message": "model.onnx answered differently."}
    concluded = conclude(run, bench.checkpoint, None, None, bench.facts, files, {"verify-onnx": why})
    row = {"artifact": "model.onnx", "format": "onnx", "title": "ONNX", "reason": why}
    assert concluded["receipt"]["undelivered"] == [row]
    assert "model.onnx" not in [artifact["name"] for artifact in concluded["receipt"]["artifacts"]]
    assert concluded["artifacts"][-1] | {"state": "failed", "reason": why, "digest": None} == concluded["artifacts"][-1]
    assert "Not delivered: model.onnx. model.onnx answered differently." in render_text(concluded["receipt"])


def test_a_format_that_is_written_later_by_other_code_says_so(tmp_path, mlp):
    bench = Bench(tmp_path, mlp, exports=("onnx",))
    bench.run(("cast", {}))
    run = {"name": "A run", "recipe": {"version": 1, "steps": [{"technique": "cast"}]}, "seed": 0, "options": {}}
    file = {"digest": "0", "size_bytes": 1}
    files = {stage: dict.fromkeys((p.name for p in at.iterdir()), file) for stage, at in bench.folders.items()}
    first = {name: facts for name, facts in bench.facts.items() if name != "verify-onnx"}
    why = {"verify-onnx": {"code": "child_died", "message": "The computing process ended."}}
    earlier = conclude(run, bench.checkpoint, None, None, first, files, why)["receipt"]
    assert "onnxruntime" not in earlier["provenance"]["versions"]
    earlier["provenance"]["code"] = "of another day"
    receipt = conclude(run | {"receipt": earlier}, bench.checkpoint, None, None, bench.facts, files)["receipt"]
    assert receipt["undelivered"] == []
    assert receipt["provenance"]["code"] == "of another day"
    (later,) = receipt["provenance"]["later"]
    assert later["artifacts"] == ["model.onnx"]
    assert "onnxruntime" in later["versions"]
    assert "model.onnx written later, by engine" in render_text(receipt)


def test_an_original_that_cannot_be_written_leaves_the_format_proven_and_not_timed(tmp_path, mlp, labelled):
    bench, recipe = Bench(tmp_path, mlp, labelled), Recipe.read({"steps": [{"technique": "cast"}]})
    for plan in stages(recipe, ["onnx"]):
        if not plan.optional:
            there = tuple(name for name in plan.inputs if name in bench.folders)
            bench.facts[plan.name] = run_stage(bench.job(recipe, replace(plan, inputs=there)), Silent())
    verified = bench.facts["verify-onnx"]
    assert verified["proof"]["agreed"]
    assert verified["result"]["latency_ms"] is None
    assert verified["result"]["metrics"]["accuracy"]["n"] == 200
    files = {
        stage: {p.name: {"digest": "0", "size_bytes": 1} for p in at.iterdir()} for stage, at in bench.folders.items()
    }
    run = {"name": "A run", "recipe": recipe.as_dict(), "seed": 0, "options": {}}
    why = {"original-onnx": {"code": "out_of_memory", "message": "The computing process ran out of memory."}}
    receipt = conclude(run, bench.checkpoint, bench.dataset, None, bench.facts, files, why)["receipt"]
    assert receipt["undelivered"] == []
    assert "so they are not timed. The computing process ran out of memory." in receipt["runtimes"][1]["notes"][-1]


def test_what_every_run_writes_comes_first_and_need_not_be_asked_for():
    recipe = Recipe.read({"steps": [{"technique": "cast"}]})
    assert stages(recipe, ["onnx"]) == stages(recipe, ["onnx", "safetensors"])
    found = {plan.name: plan.format for plan in stages(recipe, ["onnx"])}
    assert list(found)[2:4] == ["export-safetensors", "verify-safetensors"]
    assert {name for name, form in found.items() if form == "onnx"} == {"original-onnx", "export-onnx", "verify-onnx"}
    assert set(found.values()) == {None, "onnx"}
