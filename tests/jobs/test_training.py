"""A training by real workers: killed or cancelled midway it goes on, and ends with the bytes of an undisturbed one."""

import signal

import pytest

from tests.jobs.test_kill import RealBench, what_it_made
from webapp.store.models import Run, RunState

RECIPE = {
    "version": 1,
    "steps": [
        {"technique": "magnitude_pruning", "settings": {"sparsity": 0.5}},
        {"technique": "distillation", "settings": {"epochs": 250, "patience": 0, "validation": 0.2}},
    ],
}


@pytest.fixture
def benches(tmp_path):
    benches = [RealBench(tmp_path / name, threads_per_child="1") for name in ("disturbed", "undisturbed")]
    yield benches
    for bench in benches:
        bench.close()


def trained_to(bench, run_id):
    """The step that the training's curve has reached."""
    run = bench.get(Run, run_id)
    assert run.state is not RunState.FAILED, run.error
    curves = next((stage.curves for stage in run.stages if stage.name == "step-2"), None) or {}
    return curves["Training"]["x"][-1] if "Training" in curves else 0


def goings_on(bench, run_id):
    """How often the training went on where it was."""
    return sum("goes on at step" in line for line in bench.lines(run_id))


def test_a_training_that_is_killed_and_cancelled_goes_on_and_ends_with_the_same_bytes(benches):
    disturbed, undisturbed = benches
    worker = disturbed.start_worker()
    undisturbed.start_worker()
    reference, run_id = (bench.start_run(RECIPE) for bench in (undisturbed, disturbed))
    disturbed.until(lambda: trained_to(disturbed, run_id) >= 100)
    for child in disturbed.children():
        child.send_signal(signal.SIGKILL)
    disturbed.until(lambda: goings_on(disturbed, run_id) == 1)
    before = trained_to(disturbed, run_id)
    disturbed.until(lambda: trained_to(disturbed, run_id) > before)
    worker.kill()
    worker.wait()
    disturbed.until(lambda: not disturbed.children())
    disturbed.start_worker()
    disturbed.until(lambda: goings_on(disturbed, run_id) == 2)
    disturbed.jobs.cancel_run(run_id)
    disturbed.until(lambda: not disturbed.children())
    assert disturbed.get(Run, run_id).state is RunState.CANCELLED
    disturbed.jobs.retry_run(run_id)
    run, never_killed = disturbed.ended(run_id), undisturbed.ended(reference)
    assert run.state is RunState.SUCCEEDED, run.error
    assert never_killed.state is RunState.SUCCEEDED, never_killed.error
    assert goings_on(disturbed, run_id) == 3
    assert what_it_made(run) == what_it_made(never_killed)
    curves = [next(stage.curves for stage in each.stages if stage.name == "step-2") for each in (run, never_killed)]
    assert curves[0]["Validation"] == curves[1]["Validation"]
    assert not list((disturbed.settings.work / "scratch").glob("*"))
