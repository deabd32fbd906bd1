"""The samples of a run by page and API: counted, filtered, one page after the other; and which run loses which."""

import json

import numpy as np
import pytest
import torch

from tests.web.views.api_errors import error_of
from tests.web.views.page import Page
from webapp.actions.samples import SampleFilter
from webapp.engine.data.batches import Batch
from webapp.engine.facts import ArchitectureSpec, DatasetFacts
from webapp.engine.run.measure import token_losses
from webapp.engine.run.metrics import Samples
from webapp.engine.run.sample_answers import FILE, SampleAnswers, write_samples
from webapp.store.models import Artifact

N = 60
SPEC = ArchitectureSpec(family="sequential", title="MLP", task="classification", config={"classes": 3}, inputs={})


class Job:
    """The dataset of a run, without the run."""

    def __init__(self, **more) -> None:
        facts = {"kind": "arrays", "split": "all", "evaluation": {"n": N, "digest": "0"}} | more
        self.dataset = type("Given", (), {"facts": DatasetFacts.model_validate(facts), "folder": None})

    def tokenizer(self):
        return Words()


class Words:
    def decode(self, ids, **_):
        return "".join(f" <b>{id_}" for id_ in ids)


def keep(session, files, run, folder, answers, job, batch, before, after):
    told = write_samples(answers, job, [batch], before, after, folder)
    size = (folder / FILE).stat().st_size
    session.add(Artifact(run_id=run.id, name=FILE, format="samples", digest=files.put(folder / FILE), size_bytes=size))
    run.receipt = {**run.receipt, "samples": told}
    session.commit()


def keep_samples(session, files, run, folder, seed=0):
    """As a run leaves it whose result was measured on N samples of 3 classes. Returns both answers and the labels."""
    generator = torch.Generator().manual_seed(seed)
    same = torch.Generator().manual_seed(99)
    labels = torch.arange(N) % 3
    original = torch.nn.functional.one_hot(labels, 3) * 2.0 + torch.randn(N, 3, generator=same)
    result = original + torch.randn(N, 3, generator=generator)
    batch = Batch({"x": torch.randn(N, 4, generator=same)}, labels, N)
    answers = SampleAnswers(SPEC)
    answers(batch, [original], [result])
    ones = [1.0] * N
    right = [(side.argmax(-1) == labels).double().tolist() for side in (original, result)]
    kl = torch.nn.functional.kl_div(result.log_softmax(-1), original.softmax(-1), reduction="none").sum(-1).tolist()
    after = {"accuracy": Samples(right[1], ones), "kl_divergence": Samples(kl, ones)}
    job = Job(labels=["a", "b", "<i>"])
    keep(session, files, run, folder, answers, job, batch, {"accuracy": Samples(right[0], ones)}, after)
    return original.argmax(-1).numpy(), result.argmax(-1).numpy(), labels.numpy()


@pytest.fixture
def kept(session, files, run, tmp_path):
    return keep_samples(session, files, run, tmp_path)


def test_flips_are_counted_and_linked_from_the_verdict(client, run, kept):
    original, result, labels = kept
    lost = int(((original == labels) & (result != labels)).sum())
    won = int(((original != labels) & (result == labels)).sum())
    assert lost
    sentence = f"{lost} of {N} now wrong, {won} now right"
    for address in (f"/runs/{run.id}", f"/runs/{run.id}/receipt"):
        page = Page(client.get(address).text)
        assert sentence in page.text
        assert page.of("a", href=f"/runs/{run.id}/samples")
    answer = client.get(f"/api/v1/runs/{run.id}/samples").json
    assert (answer["outcomes"]["to_wrong"], answer["outcomes"]["to_right"]) == (lost, won)
    assert [row["outcome"] for row in answer["items"][:lost]] == ["to_wrong"] * lost


def test_a_shared_link_tells_the_count_and_no_sample(client, run, kept):
    token = client.post(f"/api/v1/runs/{run.id}/shares").json["token"]
    page = Page(client.get(f"/shared/{token}").text)
    assert run.receipt["samples"]["sentence"] in page.text
    assert not [own for tag, own in page.elements if tag == "a" and "samples" in own.get("href", "")]


def test_pages_follow_each_other_without_a_gap(client, run, kept):
    found, after = [], -1
    while after is not None:
        page = client.get(f"/api/v1/runs/{run.id}/samples?limit=7&after={after}").json
        found += [row["index"] for row in page["items"]]
        after = page["next"]
    assert sorted(found) == list(range(N))


def test_classes_and_confusions_are_those_of_the_answers(client, run, kept):
    original, result, labels = kept
    answer = client.get(f"/api/v1/runs/{run.id}/samples").json
    for row in answer["classes"]:
        own = labels == row["label"]
        assert row["n"] == own.sum()
        assert row["original_right"] == (original[own] == row["label"]).sum()
        assert row["result_right"] == (result[own] == row["label"]).sum()
    for side, answers in (("original", original), ("result", result)):
        matrix = next(each["matrix"] for each in answer["confusions"] if each["side"] == side)
        expected = np.zeros((3, 3), int)
        np.add.at(expected, (labels, answers), 1)
        assert matrix == expected.tolist()


def test_filters_narrow_and_are_in_the_address(client, run, kept):
    original, result, labels = kept
    asked = f"/runs/{run.id}/samples?outcome=to_wrong&label=1&distance=0.01"
    expected = int(((original == labels) & (result != labels) & (labels == 1)).sum())
    assert expected
    page = Page(client.get(asked).text)
    assert f"{expected} of {N} samples" in page.text
    assert page.of("option", value="to_wrong", selected="")
    found = client.get(f"/api/v1{asked}").json
    assert found["matching"] == expected
    assert {row["label"] for row in found["items"]} == {1}
    taken = client.get(f"/api/v1/runs/{run.id}/samples?result=2&original=1&limit=200").json["items"]
    assert len(taken) == ((result == 2) & (original == 1)).sum()


def test_names_of_classes_are_text(client, run, kept):
    text = client.get(f"/runs/{run.id}/samples").text
    assert "&lt;i&gt;" in text
    assert "<i>" not in text


@pytest.mark.parametrize("query", ["outcome=lost", "label=x", "distance=inf", "colour=red", "after=y"])
def test_what_cannot_be_read_in_the_address_is_said(client, run, kept, query):
    answer = client.get(f"/runs/{run.id}/samples?{query}")
    assert answer.status_code == 400
    assert query.split("=")[0] in Page(answer.text).text


def test_a_run_that_kept_none_says_why_and_what_to_do(client, session, run):
    before = Page(client.get(f"/runs/{run.id}/samples").text)
    assert "made before Pare kept" in before.text
    assert before.of("a", href=f"/runs/new?fork={run.id}")
    error_of(client.get(f"/api/v1/runs/{run.id}/samples"), 404)
    run.result = {**run.result, "metrics": {}, "metrics_unavailable": "The run has no dataset."}
    session.commit()
    assert "The run has no dataset." in Page(client.get(f"/runs/{run.id}/samples").text).text


def test_a_sample_that_is_tried_is_in_the_form(client, session, run, kept):
    run.artifacts.append(Artifact(name="model.onnx", format="onnx", digest="0" * 64, size_bytes=1))
    session.commit()
    first = client.get(f"/api/v1/runs/{run.id}/samples?limit=1").json["items"][0]
    page = Page(client.get(f"/runs/{run.id}/samples").text)
    assert page.of("a", href=f"/runs/{run.id}?sample=0#try-title")
    text = client.get(f"/runs/{run.id}?sample=0").text
    assert ", ".join(map(str, first["numbers"]))[:20] in text
    assert client.get(f"/runs/{run.id}?sample=999").status_code == 200


def test_which_run_loses_which_sample(client, session, files, seed, run, kept, tmp_path):
    other = seed(name="other")
    _, theirs, labels = keep_samples(session, files, other, tmp_path, seed=5)
    own = kept[1]
    lost, lost_there = own != labels, theirs != labels
    page = Page(client.get(f"/compare/samples?run={run.id}&run={other.id}").text)
    assert f"{(lost ^ lost_there).sum()} of {N} samples are lost by some" in page.text
    alone = Page(client.get(f"/compare/samples?run={run.id}&run={other.id}&lost={other.id}").text)
    assert f"{(~lost & lost_there).sum()} of {N} samples are lost by this run" in alone.text


def test_runs_without_samples_or_on_others_are_left_out_by_name(client, session, seed, run, kept):
    without = seed(name="before")
    page = Page(client.get(f"/compare/samples?run={run.id}&run={without.id}").text)
    assert "before has no samples to compare" in page.text
    nothing = client.get(f"/compare/samples?run={without.id}")
    assert (nothing.status_code, "There are no samples to compare" in nothing.text) == (200, True)
    assert client.get("/compare/samples").status_code == 200
    assert client.get(f"/compare/samples?run={run.id}&lost=x").status_code == 400


def test_of_many_runs_the_first_are_compared_and_it_is_said(client, seed, run, kept, monkeypatch):
    monkeypatch.setattr("webapp.actions.sample_comparison.MOST_RUNS", 1)
    other = seed(name="other")
    page = Page(client.get(f"/compare/samples?run={run.id}&run={other.id}").text)
    assert "Of 2 runs the first 1 are compared" in page.text


def test_a_filter_is_read_as_it_is_written():
    view = SampleFilter(outcome="to_wrong", label=3, distance=0.5)
    assert json.dumps(view.query(after=4)) == '"outcome=to_wrong&label=3&distance=0.5&after=4"'


@pytest.fixture
def written(session, files, run, tmp_path):
    """Three chunks of six tokens; the result loses 5 nats more on the last token of the second, and 3 fewer before."""
    spec = SPEC.model_copy(update={"task": "causal-lm"})
    tokens = torch.arange(18).reshape(3, 6) % 7
    original = torch.zeros(3, 6, 7)
    result = original.clone()
    result[1, 4, tokens[1, 5]] = -6.0
    original[1, 3, tokens[1, 4]] = -3.0
    batch = Batch({"input_ids": tokens}, None, 3)
    answers = SampleAnswers(spec)
    answers(batch, [original], [result])
    sides = [token_losses(side, tokens).sum(-1).tolist() for side in (original, result)]
    before, after = ({"perplexity": Samples(side, [5.0] * 3)} for side in sides)
    keep(session, files, run, tmp_path, answers, Job(kind="text"), batch, before, after)
    return run


def test_tokens_are_coloured_by_the_loss_that_they_gained(client, written):
    text = client.get(f"/runs/{written.id}/samples").text
    worst = text[text.index('class="sample-tokens"') :].partition("</p>")[0]
    assert worst.count('class="token token-6"') == 1
    assert worst.count('class="token token-better"') == 1
    assert "<b>" not in text
    assert "&lt;b&gt;4" in worst
    row = client.get(f"/api/v1/runs/{written.id}/samples").json["items"][0]
    assert (row["index"], row["original_loss"][0], len(row["tokens"])) == (1, None, 6)
    assert row["result_loss"][5] - row["original_loss"][5] > 4
    assert "See the samples, the worst first" in client.get(f"/runs/{written.id}").text
    by_result = client.get(f"/runs/{written.id}/samples?colour=result").text
    assert "token-better" not in by_result
    assert Page(client.get(f"/runs/{written.id}/samples?distance=0.1").text).text.count("Loss gained") < text.count(
        "Loss gained"
    )


def test_numbers_are_shown_with_target_and_both_answers(client, session, files, run, tmp_path):
    spec = SPEC.model_copy(update={"task": "regression"})
    batch = Batch({"x": torch.randn(4, 3)}, torch.tensor([[1.0], [2.0], [3.0], [4.0]]), 4)
    original, result = batch.targets + 0.1, batch.targets + torch.tensor([[0.0], [9.0], [0.0], [float("nan")]])
    answers = SampleAnswers(spec)
    answers(batch, [original], [result])
    sides = [(side - batch.targets).square().mean(1).tolist() for side in (original, result)]
    before, after = ({"mse": Samples(side, [1.0] * 4)} for side in sides)
    keep(session, files, run, tmp_path, answers, Job(), batch, before, after)
    items = client.get(f"/api/v1/runs/{run.id}/samples").json["items"]
    assert [row["index"] for row in items][:2] == [3, 1]  # no number is the worst
    assert (items[0]["distance"], items[0]["result_answer"]) == (None, [None])
    assert (items[1]["target"], items[1]["result_answer"]) == ([2.0], [11.0])
    page = Page(client.get(f"/runs/{run.id}/samples?distance=1").text)
    assert "2 of 4 samples" in page.text
    assert "not finite" in page.text


def test_choices_of_a_question_show_whose_they_are(client, session, files, run, tmp_path):
    from webapp.engine.data.batches import Choices

    path = tmp_path / "evaluation.jsonl"
    path.write_text('{"context": "the sky is", "choices": ["red", "blue"], "answer": 1}\n')
    job = Job(kind="multiple-choice")
    job.dataset.folder, job.preprocessing = tmp_path, lambda: None
    tokens = torch.tensor([[1, 2], [1, 3]])
    batch = Batch({"input_ids": tokens}, None, 1, Choices([2, 2], [1, 1], [3, 4], 1))
    original, result = torch.zeros(2, 2, 5), torch.zeros(2, 2, 5)
    original[1, 0, 3], result[0, 0, 2] = 3.0, 3.0
    answers = SampleAnswers(SPEC.model_copy(update={"task": "causal-lm"}))
    answers(batch, [original], [result])
    before, after = ({"accuracy": Samples([right], [1.0])} for right in (1.0, 0.0))
    keep(session, files, run, tmp_path, answers, job, batch, before, after | {"kl_divergence": Samples([1.0], [1.0])})
    page = Page(client.get(f"/runs/{run.id}/samples").text)
    assert "1 of 1 now wrong" in Page(client.get(f"/runs/{run.id}").text).text
    assert "the sky is" in page.text
    assert "red (the result’s)" in page.text
    assert "blue (right, the original’s)" in page.text
