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
    def __init__(self, instance, **settings):
        instance.mkdir(exist_ok=True)
        super().__init__(instance, "tests.jobs.held_worker", worker_stale_seconds="30", **settings)
        self._hold = instance / "hold"
        self.environment["HOLD"] = str(self._hold)
        self.hold("")

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


@pytest.fixture
def benches(tmp_path):
    benches = [RealBench(tmp_path / name) for name in ("disturbed", "undisturbed")]
    yield benches
    for bench in benches:
        bench.close()


def what_it_made(run):
    """Everything but times: the files of each stage, the artifacts, and the figures."""
    stages = {stage.name: stage.files for stage in run.stages}
    artifacts = {artifact.name: (artifact.digest, artifact.size_bytes) for artifact in run.artifacts}
    figures = [
        {key: value for key, value in part.items() if key not in ("latency_ms", "speed")}
        for part in (run.baseline, run.result)
    ]
    return stages, artifacts, figures


def test_a_worker_and_a_child_killed_at_every_stage_change_nothing(benches):
    disturbed, undisturbed = benches
    worker = disturbed.start_worker()
    undisturbed.start_worker()
    reference = undisturbed.start_run()
    disturbed.hold(STAGES[0])
    run_id = disturbed.start_run()
    for stage, following in pairwise((*STAGES, "")):
        child = disturbed.at_work_on(run_id, stage)
        child.send_signal(signal.SIGKILL)
        disturbed.until(lambda child=child: disturbed.children() and child not in disturbed.children())
        disturbed.at_work_on(run_id, stage)
        worker.kill()
        worker.wait()
        disturbed.until(lambda: not disturbed.children())
        disturbed.hold(following)
        worker = disturbed.start_worker()
    run = disturbed.ended(run_id)
    never_killed = undisturbed.ended(reference)
    assert run.state is RunState.SUCCEEDED, run.error
    assert never_killed.state is RunState.SUCCEEDED, never_killed.error
    assert tuple(stage.name for stage in run.stages) == STAGES
    assert run.artifacts
    assert what_it_made(run) == what_it_made(never_killed)


@pytest.fixture
def bench(tmp_path):
    bench = RealBench(tmp_path / "bench", threads_per_child="1")
    yield bench
    bench.close()


def test_cancel_ends_the_run_within_three_seconds_and_not_the_worker(bench):
    worker = bench.start_worker()
    bench.hold("step-1")

    def cancelled():
        run_id = bench.start_run()
        bench.at_work_on(run_id, "step-1")
        asked = time.monotonic()
        bench.jobs.cancel_run(run_id)
        bench.until(lambda: not bench.children())
        assert bench.get(Run, run_id).state is RunState.CANCELLED
        return time.monotonic() - asked

    within(CANCELLED_WITHIN_SECONDS, cancelled)
    assert worker.poll() is None


LARGE = (30_000, 2_000)  # 240 MB in float32; an idle child takes less than 300 MB
MEMORY_BYTES = 500_000_000


def test_want_of_memory_fails_the_run_and_not_the_worker(bench):
    roomy = bench.start_worker()
    large = bench.upload("checkpoint", "large.safetensors", save({"0.weight": torch.ones(LARGE)}))
    checkpoint = bench.inspected(Checkpoint, large)
    assert checkpoint.state is UploadState.READY, checkpoint.reason
    roomy.terminate()
    roomy.wait()
    bench.environment["PARE_RUN_MEMORY_LIMIT_BYTES"] = str(MEMORY_BYTES)
    worker = bench.start_worker()
    run = bench.ended(bench.run(None, large, recipe=RECIPE))
    assert (run.state, run.error["code"]) == (RunState.FAILED, "out_of_memory"), run.error
    assert "memory" in run.error["message"]
    small = bench.upload("checkpoint", "net.safetensors", weights())
    assert bench.inspected(Checkpoint, small).state is UploadState.READY
    assert worker.poll() is None
