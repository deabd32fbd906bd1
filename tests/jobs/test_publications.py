"""A run's result goes to the hub as a durable job: what it delivered, its receipt, and a card that says what it is."""

import json

import pytest
import torch

from tests.hub_server import hub_server
from tests.jobs.bench import Bench
from tests.zoo import build_tiny, write_tokenizer
from webapp.actions.errors import Conflict
from webapp.actions.imports import import_from_hub
from webapp.actions.publishing import publish_run
from webapp.store.models import Artifact, Checkpoint, Publication, Run, RunState

EIGHT_BITS = {"version": 2, "steps": [{"technique": "weight_quantization", "settings": {"bits": 8}}]}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with hub_server() as found:
        folder = tmp_path_factory.mktemp("model")
        build_tiny("LlamaForCausalLM", "llama").bfloat16().save_pretrained(folder)
        write_tokenizer(folder)
        found.add("someone/tiny", folder)
        yield found


@pytest.fixture(scope="module")
def bench(tmp_path_factory, hub):
    bench = Bench(
        tmp_path_factory.mktemp("bench"), "webapp.cli", "worker", "--instance", hub_url=hub.url, hub_token=hub.token
    )
    bench.start_worker()
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def runs(bench):
    """By the formats that they were written in: of a model that came from the hub."""
    with bench.sessions() as session:
        row = import_from_hub("someone/tiny", None, session=session, jobs=bench.jobs, settings=bench.settings)
    checkpoint = bench.inspected(Checkpoint, row.id)
    ids = {
        name: bench.run(None, checkpoint.id, recipe=EIGHT_BITS, preprocessing=None, exports=["safetensors", *more])
        for name, more in {"plain": (), "transformers": ("compressed_tensors",)}.items()
    }
    done = {name: bench.ended(id) for name, id in ids.items()}
    assert {run.state for run in done.values()} == {RunState.SUCCEEDED}, [run.error for run in done.values()]
    return done


def push(bench, run, repo_id):
    with bench.sessions() as session:
        row = publish_run(
            session.get_one(Run, run.id), repo_id, True, session=session, jobs=bench.jobs, settings=bench.settings
        )
    return bench.ended(row.id, Publication)


def test_the_receipt_is_the_model_card_and_the_files_are_what_was_delivered(bench, hub, runs):
    given = runs["plain"].artifacts[0]
    with bench.sessions() as session:
        same = {"digest": given.digest, "size_bytes": given.size_bytes}
        session.add(Artifact(run_id=given.run_id, name="samples.parquet", format="samples", **same))
        session.commit()
    row = push(bench, runs["plain"], "someone/small")
    model = hub.models["someone/small"]
    assert (row.state, row.error, row.progress) == (RunState.SUCCEEDED, None, 1.0)
    assert row.url == f"{hub.url}/someone/small/commit/{model.sha}"
    assert "samples.parquet" not in model.files  # what a hub shows is not the dataset
    for artifact in runs["plain"].artifacts:
        assert model.files[artifact.name] == bench.files.path(artifact.digest).read_bytes()
    assert json.loads(model.files["receipt.json"]) == runs["plain"].receipt
    card = model.files["README.md"].decode()
    assert card.startswith("---\n")
    assert "base_model: someone/tiny" in card
    assert f"from the hub someone/tiny at {hub.models['someone/tiny'].sha}" in card
    assert runs["plain"].receipt["verdict"]["sentence"].split(".")[0] in card
    assert "technique: weight_quantization" in card
    assert "largest difference" in card
    assert hub.token not in bench.said()


def test_a_folder_for_transformers_is_the_repository_which_stock_from_pretrained_loads(bench, hub, runs, tmp_path):
    from transformers import AutoModelForCausalLM

    row = push(bench, runs["transformers"], "someone/packed")
    assert (row.state, row.error) == (RunState.SUCCEEDED, None)
    files = hub.models["someone/packed"].files
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    own = next(each for each in runs["transformers"].artifacts if each.name == "model.safetensors")
    assert files["pare/model.safetensors"] == bench.files.path(own.digest).read_bytes()
    assert not [name for name in files if name.endswith(".zip")]
    assert "library_name: transformers" in files["README.md"].decode()
    logits = AutoModelForCausalLM.from_pretrained(tmp_path)(torch.arange(6).reshape(1, 6)).logits
    assert torch.isfinite(logits).all()


def test_what_the_hub_refuses_is_said(bench, hub, runs):
    row = push(bench, runs["plain"], "someone/tiny")
    assert row.state is RunState.FAILED
    assert "it is another model" in row.error["message"]


def test_only_what_was_delivered_is_pushed_and_one_at_a_time(bench, hub, runs):
    queued = bench.run({"stages": {}}, queue=False)
    with bench.sessions() as session:
        given = {"session": session, "jobs": bench.jobs, "settings": bench.settings}
        with pytest.raises(Conflict, match="once it has succeeded"):
            publish_run(session.get_one(Run, queued), "a/b", True, **given)
        session.add(Publication(run_id=runs["plain"].id, repo_id="a/b", state=RunState.RUNNING))
        session.commit()
        with pytest.raises(Conflict, match="right now"):
            publish_run(session.get_one(Run, runs["plain"].id), "a/b", True, **given)
        without = bench.settings.model_copy(update={"hub_token": ""})
        with pytest.raises(Conflict, match="hub_url and hub_token"):
            publish_run(session.get_one(Run, runs["plain"].id), "a/c", True, **(given | {"settings": without}))
