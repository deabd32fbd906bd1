"""Runs that go on from others, with the real engine on the digits: nothing is computed again that is kept."""

import io
import re
from importlib.resources import files

import numpy as np
import pytest

from tests.jobs.bench import Bench
from webapp.actions.beside import beside
from webapp.actions.continuing import to_make_again
from webapp.actions.errors import Conflict
from webapp.actions.run_requests import RunChanges, RunRequest, create_run, fork_run
from webapp.engine.errors import RecipeInvalid
from webapp.store.models import Checkpoint, Dataset, Run, RunState, StageState, UploadState

PRUNE = {"technique": "magnitude_pruning", "settings": {"sparsity": 0.5}}
QUANTIZE = {"technique": "weight_quantization", "settings": {"bits": 8}}
SAMPLES = files("webapp.samples")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("bench"), "webapp.cli", "worker", "--instance")
    bench.start_worker()
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def uploads(bench):
    """(the network's id, its dataset's, that of another dataset)."""
    found, noise = [], io.BytesIO()
    np.savez(noise, x=np.random.default_rng(0).uniform(size=(64, 1, 8, 8)).astype("float32"))
    given = {name: (SAMPLES / name).read_bytes() for name in ("digits_cnn.safetensors", "digits.npz")}
    for name, content in (given | {"noise.npz": noise.getvalue()}).items():
        kind, table = ("dataset", Dataset) if name.endswith(".npz") else ("checkpoint", Checkpoint)
        id_ = bench.upload(kind, name, content)
        row = bench.inspected(table, id_)
        assert row.state is UploadState.READY, row.reason
        found.append(id_)
    return found


def started(bench, **asked):
    with bench.sessions() as session:
        return create_run(session, bench.jobs, RunRequest.model_validate(asked)).id


def recipe(*steps):
    return {"version": 2, "steps": [*steps]}


@pytest.fixture(scope="module")
def first(bench, uploads):
    checkpoint_id, dataset_id, _ = uploads
    asked = {"checkpoint_id": checkpoint_id, "dataset_id": dataset_id, "recipe": recipe(PRUNE), "seed": 3}
    run = bench.ended(started(bench, **asked))
    assert (run.state, run.error) == (RunState.SUCCEEDED, None)
    return run


def states(run):
    return {stage.name: stage.state for stage in run.stages}


def test_a_continued_run_computes_only_what_is_new_and_gives_what_the_whole_recipe_gives(bench, uploads, first):
    checkpoint_id, dataset_id, _ = uploads
    run = bench.ended(started(bench, run_id=first.id, recipe=recipe(QUANTIZE)))
    assert (run.state, run.error) == (RunState.SUCCEEDED, None)
    assert (run.continued_from_id, run.dataset_id, run.seed) == (first.id, dataset_id, 3)
    assert [step["technique"] for step in run.recipe["steps"]] == ["magnitude_pruning", "weight_quantization"]
    assert states(run)["baseline"] == states(run)["step-1"] == StageState.REUSED
    assert states(run)["step-2"] is StageState.SUCCEEDED
    assert run.baseline["size_bytes"] == first.baseline["size_bytes"]  # the original stays what is compared with
    assert run.result["size_bytes"] < first.result["size_bytes"]
    assert [step["technique"] for step in run.receipt["steps"]] == ["magnitude_pruning", "weight_quantization"]
    whole = {"checkpoint_id": checkpoint_id, "dataset_id": dataset_id, "recipe": recipe(PRUNE, QUANTIZE), "seed": 3}
    at_once = bench.ended(started(bench, **whole))
    assert [each.digest for each in at_once.artifacts] == [each.digest for each in run.artifacts]


def test_what_was_removed_from_the_store_is_said_and_made_again(bench, uploads):
    checkpoint_id, dataset_id, _ = uploads
    asked = {"checkpoint_id": checkpoint_id, "dataset_id": dataset_id, "recipe": recipe(PRUNE), "seed": 4}
    earlier = bench.ended(started(bench, **asked))
    with bench.sessions() as session:
        assert to_make_again(session.get(Run, earlier.id), bench.files) == []
    kept = {entry["digest"] for stage in earlier.stages if stage.name != "step-1" for entry in stage.files.values()}
    of_step = next(stage for stage in earlier.stages if stage.name == "step-1")
    for entry in of_step.files.values():
        if entry["digest"] not in kept:
            bench.files.delete(entry["digest"])
    with bench.sessions() as session:
        assert to_make_again(session.get(Run, earlier.id), bench.files) == ["Step 1: Magnitude pruning"]
    run = bench.ended(started(bench, run_id=earlier.id, recipe=recipe(QUANTIZE)))
    assert (run.state, run.error) == (RunState.SUCCEEDED, None)
    assert states(run)["step-1"] is StageState.SUCCEEDED
    again = [line for line in bench.lines(run.id) if "is made again" in line]
    assert again == ["Step 1: Magnitude pruning is made again: what the earlier run left is not kept any more."]


def test_what_cannot_work_on_what_the_steps_left_is_refused_before_anything_runs(bench, first):
    run = bench.ended(started(bench, run_id=first.id, recipe=recipe(QUANTIZE)))
    with pytest.raises(RecipeInvalid) as refused:
        started(bench, run_id=run.id, recipe=recipe(PRUNE))
    assert refused.value.field == "steps.0"
    assert re.match(r"Step 3 \(Magnitude pruning\) cannot take .*: .*integers", refused.value.message)


def test_only_what_has_delivered_is_continued(bench, uploads):
    run_id = bench.run(None, uploads[0], queue=False, recipe=recipe(PRUNE), preprocessing=None)
    with pytest.raises(Conflict, match="is queued, and only one that has succeeded can be continued") as refused:
        started(bench, run_id=run_id, recipe=recipe(QUANTIZE))
    assert refused.value.field == "run_id"
    bench.jobs.cancel_run(run_id)


def test_a_fork_calibrates_on_other_data_and_reuses_what_does_not_depend_on_it(bench, uploads):
    checkpoint_id, dataset_id, other_id = uploads
    steps = recipe({"technique": "wanda", "settings": {"sparsity": 0.5}})
    asked = {"checkpoint_id": checkpoint_id, "dataset_id": dataset_id, "recipe": steps}
    like = bench.ended(started(bench, **asked))
    with bench.sessions() as session:
        changes = RunChanges(training_dataset_id=other_id)
        fork_id = fork_run(session, bench.jobs, session.get(Run, like.id), changes).id
    fork = bench.ended(fork_id)
    assert (fork.state, fork.error) == (RunState.SUCCEEDED, None)
    assert (fork.dataset_id, fork.training_dataset_id, fork.forked_from_id) == (dataset_id, other_id, like.id)
    assert states(fork)["baseline"] is StageState.REUSED
    assert states(fork)["step-1"] is StageState.SUCCEEDED
    assert fork.baseline["metrics"] == like.baseline["metrics"]
    with bench.sessions() as session:
        found = beside(session.get(Run, fork_id), bench.files)
    assert (found.earlier.id, found.changes) == (like.id, ["calibrated on noise.npz in place of digits.npz"])
    size, accuracy = found.rows[0], next(row for row in found.rows if row.metric == "accuracy")
    assert (size.earlier, size.later) == (like.result["size_bytes"], fork.result["size_bytes"])
    assert accuracy.paired["difference"] == pytest.approx(accuracy.later - accuracy.earlier)
    low, high = accuracy.paired["ci95"]
    assert low <= accuracy.paired["difference"] <= high
    assert accuracy.earlier_ci95[0] <= accuracy.earlier <= accuracy.earlier_ci95[1]


def test_a_delivered_file_that_comes_back_is_what_it_was_and_takes_further_steps(bench, uploads, first):
    """As a checkpoint of its own: what the run measured of its result is the baseline now."""
    run = bench.ended(started(bench, run_id=first.id, recipe=recipe(QUANTIZE)))
    artifact = next(each for each in run.artifacts if each.name == "model.safetensors")
    content = bench.files.path(artifact.digest).read_bytes()
    again = bench.inspected(Checkpoint, bench.upload("checkpoint", "again.safetensors", content))
    assert (again.state, again.reason) == (UploadState.READY, None)
    assert again.files["model.safetensors"]["digest"] == artifact.digest
    asked = {"checkpoint_id": again.id, "dataset_id": uploads[1], "recipe": recipe({"technique": "cast"})}
    further = bench.ended(started(bench, **asked, exports=["onnx"]))
    assert (further.state, further.error, further.undelivered) == (RunState.SUCCEEDED, None, [])
    for name in ("size_bytes", "params_total", "params_nonzero", "params_stored", "sparsity"):
        assert further.baseline[name] == run.result[name], name
    assert further.baseline["metrics"]["accuracy"] == run.result["metrics"]["accuracy"]
    at_once = bench.ended(started(bench, run_id=run.id, recipe=recipe({"technique": "cast"})))
    assert further.result["metrics"]["accuracy"] == at_once.result["metrics"]["accuracy"]
    sizes = [row["bytes_after"] for row in further.receipt["credit"]]
    assert sizes[-1] == further.result["size_bytes"]
