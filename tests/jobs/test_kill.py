"""With the real engine: whatever is killed, the run ends with the digests of a run that was never disturbed."""

import io
import signal
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save

from tests.jobs.bench import Bench
from tests.patience import CANCELLED_WITHIN_SECONDS, within
from webapp.store.models import Checkpoint, Dataset, Run, RunState, StageState, UploadState

RECIPE = {
    "version": 1,
    "steps": [
        {"technique": "magnitude_pruning", "settings": {"sparsity": 0.5}},
        {"technique": "weight_quantization", "settings": {"bits": 8}},
    ],
}
TRAINED = {
    "version": 1,
    "steps": [
        {"technique": "magnitude_pruning", "settings": {"sparsity": 0.5}},
        {"technique": "distillation", "settings": {"epochs": 250, "patience": 0, "validation": 0.2}},
    ],
}
STAGES = ("baseline", "step-1", "score-1", "step-2", "export-safetensors", "verify-safetensors")
FEATURES, HIDDEN, CLASSES, SAMPLES = 6, 16, 3, 60


def weights() -> bytes:
    generator = torch.Generator().manual_seed(0)
    return save(
        {
            "0.weight": torch.randn(HIDDEN, FEATURES, generator=generator),
            "0.bias": torch.zeros(HIDDEN),
            "2.weight": torch.randn(CLASSES, HIDDEN, generator=generator),
            "2.bias": torch.zeros(CLASSES),
        }
    )


def samples() -> bytes:
    random = np.random.default_rng(0)
    file = io.BytesIO()
    x = random.normal(size=(SAMPLES, FEATURES)).astype("float32")
    np.savez(file, x=x, y=random.integers(0, CLASSES, SAMPLES))
    return file.getvalue()


class RealBench(Bench):
    """Its worker is started, and children of a stage can be held."""

    def __init__(self, instance):
        instance.mkdir(parents=True)
        super().__init__(instance, "tests.jobs.held_worker", worker_stale_seconds="30", threads_per_child="1")
        self._hold = instance / "hold"
        self.environment["HOLD"] = str(self._hold)
        self.hold("")
        self.start_worker()

    def kill_worker(self):
        self.end(self.workers[-1])
        self.until(lambda: not self.children())

    def hold(self, stage):
        """From now on the child of this stage does not end by itself; "" holds none."""
        beside = self._hold.with_suffix(".new")
        beside.write_text(stage)
        beside.rename(self._hold)

    def start_run(self, recipe=RECIPE, **changed):
        """Uploads the checkpoint and its dataset, and queues the run."""
        checkpoint_id = self.upload("checkpoint", "net.safetensors", weights())
        dataset_id = self.upload("dataset", "data.npz", samples())
        for table, id in ((Checkpoint, checkpoint_id), (Dataset, dataset_id)):
            row = self.inspected(table, id)
            assert row.state is UploadState.READY, row.reason
        return self.run(None, checkpoint_id, recipe=recipe, dataset_id=dataset_id, **changed)

    def at_work_on(self, run_id, name):
        """The child that computes this stage, once it does."""

        def look():
            run = self.get(Run, run_id)
            assert run.state is not RunState.FAILED, run.error
            stage = next((stage for stage in run.stages if stage.name == name), None)
            return stage and stage.state is StageState.RUNNING and self.children()

        return self.until(look)[0]

    def trained_to(self, run_id):
        """The step that the training's curve has reached."""
        run = self.get(Run, run_id)
        assert run.state is not RunState.FAILED, run.error
        curves = next((stage.curves for stage in run.stages if stage.name == "step-2"), None) or {}
        return curves["Training"]["x"][-1] if "Training" in curves else 0

    def went_on(self, run_id):
        """How often the training went on where it was."""
        return sum("goes on at step" in line for line in self.lines(run_id))


def real_bench(name):
    @pytest.fixture(scope="module", name=name)
    def fixture(tmp_path_factory):
        bench = RealBench(tmp_path_factory.mktemp(name) / "instance")
        yield bench
        bench.close()

    return fixture


disturbed, undisturbed = real_bench("disturbed"), real_bench("undisturbed")


def what_it_made(run):
    """Everything but times: the files of each stage, the artifacts, and the figures."""
    stages = {stage.name: stage.files for stage in run.stages}
    artifacts = {artifact.name: (artifact.digest, artifact.size_bytes) for artifact in run.artifacts}
    figures = [
        {key: value for key, value in part.items() if key not in ("latency_ms", "speed", "peak_bytes")}
        for part in (run.baseline, run.result)
    ]
    return stages, artifacts, figures


def assert_same(disturbed, run_id, undisturbed, reference):
    run, never_killed = disturbed.ended(run_id), undisturbed.ended(reference)
    assert run.state is RunState.SUCCEEDED, run.error
    assert never_killed.state is RunState.SUCCEEDED, never_killed.error
    assert run.artifacts
    assert what_it_made(run) == what_it_made(never_killed)
    return run, never_killed


def killed_at(disturbed, undisturbed, *stages):
    """The child of each of the stages is killed, and then the worker."""
    reference = undisturbed.start_run()
    disturbed.hold(stages[0])
    run_id = disturbed.start_run()
    for stage, following in pairwise((*stages, "")):
        child = disturbed.at_work_on(run_id, stage)
        child.send_signal(signal.SIGKILL)
        disturbed.until(lambda child=child: disturbed.children() and child not in disturbed.children())
        disturbed.at_work_on(run_id, stage)
        disturbed.kill_worker()
        disturbed.hold(following)
        disturbed.start_worker()
    run, _ = assert_same(disturbed, run_id, undisturbed, reference)
    assert tuple(stage.name for stage in run.stages) == STAGES


def training_cut_short(disturbed, undisturbed, *cuts):
    """Each of the cuts (child, worker, cancel) ends a training, which then goes on where it was."""
    reference, run_id = (bench.start_run(TRAINED) for bench in (undisturbed, disturbed))
    for count, cut in enumerate(cuts, start=1):
        before = disturbed.trained_to(run_id)
        disturbed.until(lambda before=before: disturbed.trained_to(run_id) >= max(before + 1, 100))
        if cut == "child":
            for child in disturbed.children():
                child.send_signal(signal.SIGKILL)
        elif cut == "worker":
            disturbed.kill_worker()
            disturbed.start_worker()
        else:
            disturbed.jobs.cancel_run(run_id)
            disturbed.until(lambda: not disturbed.children())
            assert disturbed.get(Run, run_id).state is RunState.CANCELLED
            disturbed.jobs.retry_run(run_id)
        disturbed.until(lambda count=count: disturbed.went_on(run_id) == count)
    runs = assert_same(disturbed, run_id, undisturbed, reference)
    assert disturbed.went_on(run_id) == len(cuts)
    curves = [next(stage.curves for stage in run.stages if stage.name == "step-2") for run in runs]
    assert curves[0]["Validation"] == curves[1]["Validation"]
    assert not list((disturbed.settings.work / "scratch").glob("*"))


def test_a_worker_and_a_child_that_are_killed_change_nothing(disturbed, undisturbed):
    """`make attack` kills them at every stage."""
    killed_at(disturbed, undisturbed, "step-2")


def test_a_training_that_is_killed_and_cancelled_goes_on_and_ends_with_the_same_bytes(disturbed, undisturbed):
    """`make attack` kills the worker as well."""
    training_cut_short(disturbed, undisturbed, "child", "cancel")


def test_cancel_ends_the_run_within_three_seconds_and_not_the_worker(disturbed):
    disturbed.hold("step-1")

    def cancelled():
        run_id = disturbed.start_run(seed=1)
        disturbed.at_work_on(run_id, "step-1")
        asked = time.monotonic()
        disturbed.jobs.cancel_run(run_id)
        disturbed.until(lambda: not disturbed.children())
        assert disturbed.get(Run, run_id).state is RunState.CANCELLED
        return time.monotonic() - asked

    within(CANCELLED_WITHIN_SECONDS, cancelled)
    disturbed.hold("")
    assert disturbed.workers[-1].poll() is None


LARGE = (30_000, 2_000)  # 240 MB in float32; an idle child takes less than 300 MB
MEMORY_BYTES = 500_000_000


def test_want_of_memory_fails_the_run_and_not_the_worker(disturbed):
    large = disturbed.upload("checkpoint", "large.safetensors", save({"0.weight": torch.ones(LARGE)}))
    checkpoint = disturbed.inspected(Checkpoint, large)
    assert checkpoint.state is UploadState.READY, checkpoint.reason
    disturbed.kill_worker()
    disturbed.environment["PARE_RUN_MEMORY_LIMIT_BYTES"] = str(MEMORY_BYTES)
    worker = disturbed.start_worker()
    run = disturbed.ended(disturbed.run(None, large, recipe=RECIPE))
    assert (run.state, run.error["code"]) == (RunState.FAILED, "out_of_memory"), run.error
    assert "memory" in run.error["message"]
    small = disturbed.upload("checkpoint", "net.safetensors", weights())
    assert disturbed.inspected(Checkpoint, small).state is UploadState.READY
    assert worker.poll() is None
