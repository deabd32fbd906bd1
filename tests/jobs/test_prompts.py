"""Prompts are asked of a run that succeeded: all that it has stays, and a set that is asked again stands once."""

import zipfile

import pytest
import torch

from tests.jobs.bench import Bench
from tests.jobs.test_worker import digests
from tests.zoo import build_tiny, write_tokenizer
from webapp.engine.run.stages.job import PromptSet
from webapp.jobs.errors import JobNotRetryable
from webapp.store.models import Checkpoint, Run, RunState, StageState

EIGHT_BITS = {"version": 2, "steps": [{"technique": "weight_quantization", "settings": {"bits": 8}}]}


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
        bench.jobs.ask_prompts(run_id, PromptSet(texts=tuple(texts), max_tokens=8))
        after = bench.ended(run_id)
    assert after.prompts == [{"texts": ["two", "three"], "max_tokens": 8}, {"texts": ["one"], "max_tokens": 8}]
    assert (after.state, after.attempt) == (RunState.SUCCEEDED, 4)
    assert (digests(after), after.receipt) == (digests(before), before.receipt)


def test_a_run_that_answers_others_takes_no_more_and_says_so(bench):
    run_id = bench.run({"stages": {"a": [["write", "a"]]}})
    with bench.sessions.begin() as session:
        run = session.get(Run, run_id)
        run.receipt, run.state = {}, RunState.SUCCEEDED
    first = PromptSet(texts=("one",), max_tokens=8)
    bench.jobs.ask_prompts(run_id, first)
    bench.jobs.ask_prompts(run_id, first)  # pressed twice
    with pytest.raises(JobNotRetryable, match="ask again when it is done"):
        bench.jobs.ask_prompts(run_id, PromptSet(texts=("two",), max_tokens=8))
    assert bench.get(Run, run_id).prompts == [first.row]


def test_a_run_without_a_result_answers_nothing(bench):
    run_id = bench.run({"stages": {"a": [["exit", 9]]}})
    bench.ended(run_id)
    with pytest.raises(JobNotRetryable, match="once it is done"):
        bench.jobs.ask_prompts(run_id, PromptSet(texts=("one",), max_tokens=8))
    assert bench.get(Run, run_id).prompts == []


@pytest.mark.slow
def test_a_real_model_answers_in_a_process_of_its_own(tmp_path_factory, tmp_path):
    model = build_tiny("LlamaForCausalLM", "llama").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for path in (tmp_path / "model").iterdir():
            archive.write(path, f"model/{path.name}")
    bench = Bench(tmp_path_factory.mktemp("bench"), "webapp.cli", "worker", "--instance")
    try:
        bench.start_worker()
        checkpoint = bench.inspected(
            Checkpoint, bench.upload("checkpoint", "model.zip", (tmp_path / "model.zip").read_bytes())
        )
        run_id = bench.run(None, checkpoint.id, recipe=EIGHT_BITS, preprocessing=None)
        before = bench.ended(run_id)
        bench.jobs.ask_prompts(run_id, PromptSet(texts=("the cat sat on the",), max_tokens=6))
        after = bench.ended(run_id)
        bench.jobs.ask_prompts(run_id, PromptSet(texts=("the cat " * 200,), max_tokens=6))
        refused = bench.ended(run_id)
    finally:
        bench.close()
    assert digests(refused) == digests(before)
    assert {**refused.receipt, "cost": None} == {**before.receipt, "cost": None}
    done = next(stage for stage in after.stages if stage.name.startswith("prompts-"))
    assert len(done.facts["answers"][0]["original"]["tokens"]) <= 6
    assert done.facts["answers"][0]["same"] > 0  # of 8 bits
    last = next(stage for stage in refused.stages if stage.state is StageState.FAILED)
    assert "Shorten it" in last.error["message"]
    assert refused.state is RunState.SUCCEEDED
