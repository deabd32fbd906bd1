"""Prompts are asked of a run that succeeded: all that it has stays, and a set that is asked again stands once."""

import pytest

from tests.jobs.bench import Bench
from tests.jobs.test_worker import digests
from webapp.jobs.errors import JobNotRetryable
from webapp.store.models import Run, RunState


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("bench"), "tests.jobs.scripted_worker")
    bench.start_worker()
    yield bench
    bench.close()


def test_sets_are_kept_in_the_order_in_which_they_were_asked(bench, tmp_path):
    run_id = bench.run({"ledger": str(tmp_path / "ledger"), "stages": {"a": [["write", "a"]]}})
    before = bench.ended(run_id)
    assert before.prompts == []
    for texts in (["one"], ["two", "three"], ["one"]):
        bench.jobs.ask_prompts(run_id, texts, 8)
        after = bench.ended(run_id)
    assert after.prompts == [{"texts": ["two", "three"], "max_tokens": 8}, {"texts": ["one"], "max_tokens": 8}]
    assert (after.state, after.attempt) == (RunState.SUCCEEDED, 4)
    assert (digests(after), after.receipt) == (digests(before), before.receipt)


def test_a_run_without_a_result_answers_nothing(bench):
    run_id = bench.run({"stages": {"a": [["exit", 9]]}})
    bench.ended(run_id)
    with pytest.raises(JobNotRetryable, match="once it is done"):
        bench.jobs.ask_prompts(run_id, ["one"], 8)
    assert bench.get(Run, run_id).prompts == []
