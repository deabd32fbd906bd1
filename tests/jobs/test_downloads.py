"""A model comes from a hub as a durable job: with progress, at one commit, and nothing of it is left where it fails."""

import hashlib
import stat

import pytest

from tests.hub_server import hub_server
from tests.jobs.bench import Bench
from tests.zoo import build_tiny, write_tokenizer
from webapp.actions.imports import import_from_hub
from webapp.store.models import Checkpoint, Run, RunState, UploadState

EIGHT_BITS = {"version": 2, "steps": [{"technique": "weight_quantization", "settings": {"bits": 8}}]}


@pytest.fixture(scope="module")
def hub():
    with hub_server() as found:
        yield found


@pytest.fixture(scope="module")
def bench(tmp_path_factory, hub):
    """With the real engine and the real client."""
    bench = Bench(
        tmp_path_factory.mktemp("bench"), "webapp.cli", "worker", "--instance", hub_url=hub.url, hub_token=hub.token
    )
    bench.start_worker()
    yield bench
    bench.close()


@pytest.fixture(autouse=True)
def nothing_held(hub):
    hub.hold.clear()
    hub.held = False
    yield
    hub.held = False
    hub.hold.set()


@pytest.fixture
def model(hub, tmp_path):
    build_tiny("LlamaForCausalLM", "llama").bfloat16().save_pretrained(tmp_path / "m", max_shard_size="10KB")
    write_tokenizer(tmp_path / "m")
    return hub.add("someone/tiny", tmp_path / "m", private=True)


def asked_for(bench, name="someone/tiny", revision=None):
    with bench.sessions() as session:
        return import_from_hub(name, revision, session=session, jobs=bench.jobs, settings=bench.settings).id


def leftovers(bench):
    return list((bench.settings.work / "hub").glob("*"))


def test_it_comes_in_at_the_commit_that_main_is_and_a_run_reads_it(bench, hub, model):
    row = bench.inspected(Checkpoint, asked_for(bench))
    assert (row.state, row.reason) == (UploadState.READY, None)
    assert row.source == {"kind": "hub", "repo_id": "someone/tiny", "asked": "main", "revision": model.sha}
    assert row.facts["architecture"]["title"] == "LlamaForCausalLM"
    assert row.facts["architecture"]["inputs"]["tokenizer"] is True
    shards = {f"weights/{name}": data for name, data in model.files.items() if name.endswith(".safetensors")}
    for name, data in shards.items():
        assert row.files[name] == {"digest": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        assert bench.files.path(row.files[name]["digest"]).read_bytes() == data
    assert "model.safetensors" not in row.files, "the shards are what is kept, and no copy of them"
    assert row.in_place == {}
    bench.until(lambda: not leftovers(bench))
    run = bench.ended(bench.run(None, row.id, recipe=EIGHT_BITS, preprocessing=None))
    assert (run.state, run.error) == (RunState.SUCCEEDED, None)
    bench.until(lambda: not list(bench.settings.work.glob("*/*/job.json")))
    assert hub.token not in bench.said()


def test_its_page_follows_it_and_a_worker_that_dies_is_replaced(bench, hub, model):
    hub.held = True
    id = asked_for(bench)
    bench.until(lambda: (bench.get(Checkpoint, id).source["revision"], bool(leftovers(bench))) == (model.sha, True))
    for job in bench.settings.work.glob("*/*/job.json"):
        assert stat.S_IMODE(job.stat().st_mode) == 0o600, "it holds the token"
    bench.end(bench.workers[-1])
    bench.start_worker()
    hub.hold.set()
    row = bench.inspected(Checkpoint, id)
    assert (row.state, row.reason) == (UploadState.READY, None)
    assert row.progress > 0.7


def test_no_upload_waits_for_a_slow_hub(bench, hub, model):
    hub.held = True
    slow = [asked_for(bench) for _ in range(bench.settings.inspections_at_once + 1)]
    bench.until(lambda: len(leftovers(bench)) >= bench.settings.inspections_at_once)
    assert (
        bench.inspected(Checkpoint, bench.upload("checkpoint", "x.pt", b"no checkpoint")).state is UploadState.REFUSED
    )
    assert {bench.get(Checkpoint, id).state for id in slow} == {UploadState.INSPECTING}
    hub.hold.set()
    assert {bench.inspected(Checkpoint, id).state for id in slow} == {UploadState.READY}


def test_a_model_that_is_deleted_meanwhile_leaves_nothing(bench, hub, model):
    hub.held = True
    id = asked_for(bench)
    bench.until(lambda: leftovers(bench))
    with bench.sessions.begin() as session:
        session.delete(session.get(Checkpoint, id))
    bench.until(lambda: not leftovers(bench))


@pytest.mark.parametrize(
    ("name", "revision", "sentence"),
    [("someone/else", None, "shows no model"), ("someone/tiny", "gone", "no such revision")],
)
def test_what_the_hub_does_not_have_is_refused_with_a_sentence(bench, model, name, revision, sentence):
    row = bench.inspected(Checkpoint, asked_for(bench, name, revision))
    assert row.state is UploadState.REFUSED
    assert sentence in row.reason["message"]
    bench.until(lambda: not leftovers(bench))


def test_a_file_that_is_not_what_the_hub_says_is_refused(bench, hub, model, monkeypatch):
    from tests import hub_server as server

    true = hashlib.sha256
    told = lambda data: true(b"another") if isinstance(data, bytes) and len(data) > 10_000 else true(data)  # noqa: E731
    monkeypatch.setattr(server.hashlib, "sha256", told)
    row = bench.inspected(Checkpoint, asked_for(bench))
    assert row.state is UploadState.REFUSED
    assert "is not what the hub says" in row.reason["message"]


def test_code_of_a_model_is_neither_fetched_nor_run(bench, hub, model, tmp_path):
    hub.add("someone/tiny", model.files | {"modeling_tiny.py": b"raise SystemExit('run')"})
    hub.asked.clear()
    assert bench.inspected(Checkpoint, asked_for(bench)).state is UploadState.READY
    assert not [path for _, path, _ in hub.asked if path.endswith(".py")]


def test_where_no_hub_is_named_nothing_is_asked(tmp_path, hub):
    bench = Bench(tmp_path, "webapp.cli", "worker", "--instance")
    try:
        bench.start_worker()
        hub.asked.clear()
        with bench.sessions.begin() as session:
            source = {"kind": "hub", "repo_id": "someone/tiny", "asked": "main", "revision": None}
            row = Checkpoint(name="x", filename="x", size_bytes=0, digest="", source=source)
            session.add(row)
        bench.jobs.enqueue_inspection("checkpoint", row.id)
        found = bench.inspected(Checkpoint, row.id)
        assert found.reason["code"] == "hub_off"
        assert hub.asked == []
        assert bench.get(Run, row.id) is None
    finally:
        bench.close()
