"""A run that succeeded is asked what its layers cost: one stage more, and all that it has stays as it is."""

import pytest

from tests.jobs.bench import Bench
from tests.jobs.test_worker import digests, ledger
from webapp.jobs.errors import JobNotRetryable
from webapp.store.models import Run, RunState, StageState


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("bench"), "tests.jobs.scripted_worker")
    bench.start_worker()
    yield bench
    bench.close()


def scripted(tmp_path, *blame):
    stages = {"a": [["write", "a"]], "blame": [*blame, ["write", "costs"]]}
    return {"ledger": str(tmp_path / "ledger"), "stages": stages}


def test_only_the_new_stage_is_done_and_what_it_found_is_on_the_receipt(bench, tmp_path):
    run_id = bench.run(scripted(tmp_path))
    before = bench.ended(run_id)
    assert "blame" not in before.receipt
    bench.jobs.blame_run(run_id, ["layer.3"])
    after = bench.ended(run_id)
    assert (after.state, after.blame, after.attempt) == (RunState.SUCCEEDED, ["layer.3"], 2)
    assert ledger(tmp_path / "ledger") == ["a", "blame"]
    assert after.receipt["blame"]["stage"] == "blame"
    assert digests(after).items() >= digests(before).items()
    bench.jobs.blame_run(run_id, [])  # other layers: measured anew
    assert bench.ended(run_id).blame == []
    assert ledger(tmp_path / "ledger") == ["a", "blame", "blame"]


@pytest.mark.parametrize("ends", ["cancelled", "fails"])
def test_what_comes_to_nothing_leaves_the_run_as_it_was(bench, tmp_path, ends):
    run_id = bench.run(scripted(tmp_path, ["sleep", 60] if ends == "cancelled" else ["refuse", "No layer differs."]))
    before = bench.ended(run_id)
    bench.jobs.blame_run(run_id, [])
    assert bench.get(Run, run_id).receipt == before.receipt
    if ends == "cancelled":
        bench.until(lambda: bench.children() and "blame" in ledger(tmp_path / "ledger"))
        bench.jobs.cancel_run(run_id)
        bench.until(lambda: not bench.children())
    after = bench.ended(run_id)
    assert (after.state, after.error, after.receipt) == (RunState.SUCCEEDED, None, before.receipt)
    assert digests(after) == digests(before)
    (stage,) = (stage for stage in after.stages if stage.name == "blame")
    assert stage.state == (StageState.CANCELLED if ends == "cancelled" else StageState.FAILED)
    assert ends == "cancelled" or stage.error["message"] == "No layer differs."


def test_a_run_without_a_result_has_no_layers_to_blame(bench, tmp_path):
    run_id = bench.run({"stages": {"a": [["exit", 9]]}})
    bench.ended(run_id)
    with pytest.raises(JobNotRetryable, match="once it is done"):
        bench.jobs.blame_run(run_id, [])
