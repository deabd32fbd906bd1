"""What a run needs of memory and disk is foreseen, and holds."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests import zoo
from tests.benchmarks.whole_runs import Shape, made
from webapp.commands.local_runs import LocalRuns
from webapp.commands.progress_bar import ProgressBar
from webapp.commands.workbench import workbench
from webapp.engine.data.passing import pass_size
from webapp.engine.errors import RecipeInvalid
from webapp.engine.facts import DatasetFacts, SplitFacts
from webapp.engine.recipe import Recipe
from webapp.engine.run.footprint import check_fits, footprint, shapes_of
from webapp.engine.run.shapes import PROCESS_BYTES
from webapp.engine.run.stages import RunGiven
from webapp.engine.run.stages.job import SourcesGiven

TEXT = DatasetFacts(
    kind="text", split="70/30", evaluation=SplitFacts(n=10_000, digest="0"), training=SplitFacts(n=20_000, digest="1")
)


def of_llama():
    _, facts = zoo.checkpoint("llama")
    return facts.model_copy(update={"pass_size": pass_size(facts)})


def asked(*steps, exports=()) -> RunGiven:
    recipe = Recipe.read({"steps": [{"technique": name, "settings": settings} for name, settings in steps]})
    return RunGiven(recipe=recipe, exports=exports, task="causal-lm")


def test_each_stage_has_a_figure_and_the_run_that_of_the_largest():
    facts, run = of_llama(), asked(("gptq", {"bits": 4}), exports=("onnx",))
    needs = footprint(run, shapes_of(run, facts, TEXT))
    assert [stage.stage for stage in needs.stages][:2] == ["baseline", "step-1"]
    assert all(stage.memory_bytes > PROCESS_BYTES for stage in needs.stages)
    assert needs.memory_bytes == max(stage.memory_bytes for stage in needs.stages)
    assert needs.of_stage("verify-onnx") > needs.of_stage("export-safetensors")
    assert needs.of_stage("no-such-stage") is None
    assert needs.disk_bytes > facts.weights_bytes


def test_nothing_is_foreseen_of_a_model_that_could_not_be_followed():
    facts, run = of_llama().model_copy(update={"pass_size": None}), asked(("gptq", {}))
    needs = footprint(run, shapes_of(run, facts, TEXT))
    assert needs.memory_bytes is None
    assert needs.of_stage("baseline") is None
    assert check_fits(run, shapes_of(run, facts, TEXT), 10**9).memory_bytes is None


def test_what_does_not_fit_is_refused_with_what_would():
    facts, run = of_llama(), asked(("weight_quantization", {"bits": 8}), exports=("onnx",))
    shapes = shapes_of(run, facts, TEXT)
    needs = footprint(run, shapes)
    without = max(s.memory_bytes for s in needs.stages if not s.stage.endswith("onnx"))
    with pytest.raises(RecipeInvalid, match=r"Load ONNX again.* leave ONNX out; or .* run_memory_limit_bytes") as error:
        check_fits(run, shapes, without)
    assert error.value.field == "exports"
    assert check_fits(run, shapes, needs.memory_bytes) == needs


def test_a_step_that_does_not_fit_is_named_and_smaller_batches_are_offered():
    facts, run = of_llama(), asked(("distillation", {"batch_size": 4096}))
    shapes = shapes_of(run, facts, TEXT)
    step = footprint(run, shapes).of_stage("step-1")
    with pytest.raises(RecipeInvalid, match=r"^Step 1: .*batches of one sample") as error:
        check_fits(run, shapes, step - 1)
    assert error.value.field == "steps.0"


def test_a_larger_teacher_needs_more_than_the_original_would():
    facts, run = of_llama(), asked(("distillation", {"batch_size": 1}))
    large = facts.model_copy(
        update={"tensors": [t.model_copy(update={"shape": (100, *t.shape)}) for t in facts.tensors]}
    )
    alone, taught = (footprint(run, shapes_of(run, facts, TEXT, None, teacher)) for teacher in (None, large))
    assert taught.of_stage("step-1") > alone.of_stage("step-1") + 300 * facts.params_total


def test_attention_maps_that_are_compared_count_with_the_square_of_the_length():
    facts = of_llama()

    def step(**settings) -> int:
        run = asked(("distillation", settings))
        return footprint(run, shapes_of(run, facts, TEXT)).of_stage("step-1")

    more = step(attention_weight=1.0, batch_size=4) - step(batch_size=4)
    assert more == 2 * (step(attention_weight=1.0, batch_size=2) - step(batch_size=2)) > 0


def test_scales_alone_hold_fewer_gradients_and_keep_less():
    facts = of_llama()
    whole, scales = (
        next(s for s in footprint(run, shapes_of(run, facts, TEXT)).stages if s.stage == "step-1")
        for run in (asked(("distillation", {"batch_size": 1, "trains": trains})) for trains in ("all", "scales"))
    )
    assert scales.memory_bytes < whole.memory_bytes - 8 * facts.params_total
    assert scales.disk_bytes < whole.disk_bytes


@pytest.mark.parametrize("seen", [None, TEXT])
def test_llama_cpps_types_walk_through_the_model_only_where_they_measure_it(seen):
    facts = of_llama()
    quantized = asked(("ggml_quantization", {"type": "Q8_0"}))

    def step(run, facts=facts) -> int:
        return footprint(run, shapes_of(run, facts, seen)).of_stage("step-1")

    alone = step(asked(("ggml_quantization", {"type": "Q8_0", "importance": "none"})))
    assert (step(quantized) > alone) == (seen is not None)
    assert step(quantized, facts.model_copy(update={"importance": "of 3 samples"})) == alone


def test_what_a_step_keeps_to_go_on_after_a_kill_is_on_the_disk():
    facts = of_llama()

    def step(technique, settings) -> int:
        run = asked((technique, settings))
        return next(s.disk_bytes for s in footprint(run, shapes_of(run, facts, TEXT)).stages if s.stage == "step-1")

    plain = step("weight_quantization", {"bits": 4, "granularity": "group", "group_size": 32})
    calibrated = step("gptq", {"bits": 4, "granularity": "group", "group_size": 32, "samples": 8})
    assert calibrated > plain
    assert step("gptq", {"bits": 4, "granularity": "group", "group_size": 32, "samples": 64}) > calibrated
    assert step("low_rank", {"method": "whitened", "samples": 64}) > step("low_rank", {"method": "plain"})
    assert step("distillation", {}) >= 4 * facts.params_total + 2 * facts.weights_bytes


def test_what_only_an_override_needs_counts():
    facts = of_llama()
    settings = {"type": "Q8_0", "importance": "none", "pure": True}
    step = {"technique": "ggml_quantization", "settings": settings}
    runs = [
        RunGiven(recipe=Recipe.read({"steps": [{**step, "overrides": overrides}]}), task="causal-lm")
        for overrides in ({}, {"*.0.*": {"type": "IQ2_XXS"}})
    ]
    plain, guided = (footprint(run, shapes_of(run, facts, TEXT)).of_stage("step-1") for run in runs)
    assert guided > plain


ALONE = [
    ("weight_quantization", {"bits": 8, "granularity": "channel"}),
    ("weight_quantization", {"bits": 3, "numbers": "fitted"}),
    ("magnitude_pruning", {"pattern": "2:4"}),
    ("random_pruning", {"sparsity": 0.5}),
    ("cast", {"dtype": "float16"}),
    ("ggml_quantization", {"type": "Q4_K_M"}),
]
ON_TEXT = [
    ("gptq", {"bits": 4, "samples": 8}),
    ("sparsegpt", {"sparsity": 0.5, "samples": 8}),
    ("low_rank", {"method": "whitened", "samples": 8}),
    ("distillation", {"epochs": 0.1}),
    ("distillation", {"epochs": 0.1, "trains": "scales"}),
    ("distillation", {"epochs": 0.1, "attention_weight": 1.0}),
]


def measured(path, data, step, folder):
    """The rows of the receipt on memory."""
    with workbench(folder) as bench, ProgressBar(quiet=True) as bar:
        checkpoint = bench.look_at_structure(bench.checkpoint(path, bar.tell), bar.tell)
        dataset = bench.dataset(data, bar.tell) if data else None
        runs = LocalRuns(bench, bar, SourcesGiven(checkpoint=checkpoint, dataset=dataset), (), 0, {})
        return runs.of_recipe(asked(step).recipe).receipt["cost"]


def require_kept(rows) -> None:
    assert rows
    for row in rows:
        assert row["peak_bytes"] <= row["foreseen_bytes"], row


@pytest.mark.slow
@pytest.mark.parametrize("step", ALONE, ids=lambda step: json.dumps(step))
def test_large_tensors_keep_to_what_was_foreseen(step, tmp_path):
    matrix = torch.randn(8192, 4096, generator=torch.Generator().manual_seed(0))
    save_file({"a.weight": matrix, "b.weight": matrix[:512, :512].clone()}, tmp_path / "large.safetensors")
    require_kept(measured(tmp_path / "large.safetensors", None, step, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("step", ON_TEXT, ids=lambda step: json.dumps(step))
def test_techniques_that_see_data_keep_to_what_was_foreseen(step, tmp_path):
    """Of llama's shape, 30 million parameters in bfloat16."""
    made(Shape(512, 1376, 4, vocabulary=16_000), tmp_path / "model")
    zoo.write_tokenizer(tmp_path / "model")
    (tmp_path / "text.txt").write_text("the cat sat on a mat . " * 3000)
    require_kept(measured(tmp_path / "model", tmp_path / "text.txt", step, tmp_path))
