"""Files that were uploaded one by one are inspected as the folder that they are; the shards are kept as they came."""

import hashlib
import io

import pytest

from tests.jobs.bench import Bench
from tests.zoo import build_tiny, write_tokenizer
from webapp.store.models import Checkpoint, RunState, UploadState

EIGHT_BITS = {"version": 2, "steps": [{"technique": "weight_quantization", "settings": {"bits": 8}}]}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """With the real engine."""
    bench = Bench(tmp_path_factory.mktemp("bench"), "webapp.cli", "worker", "--instance")
    bench.start_worker()
    yield bench
    bench.close()


@pytest.fixture
def folder(tmp_path):
    build_tiny("LlamaForCausalLM", "llama").bfloat16().save_pretrained(tmp_path / "llama", max_shard_size="10KB")
    write_tokenizer(tmp_path / "llama")
    return tmp_path / "llama"


def uploaded(bench, folder):
    parts = {}
    for path in folder.iterdir():
        digest, size_bytes = bench.files.receive(io.BytesIO(path.read_bytes()), 10**9)
        parts[path.name] = {"digest": digest, "size_bytes": size_bytes}
    with bench.sessions.begin() as session:
        row = Checkpoint(
            name="llama", filename="llama", size_bytes=1, digest="", source={"kind": "files", "files": parts}
        )
        session.add(row)
    bench.jobs.enqueue_inspection("checkpoint", row.id)
    return bench.inspected(Checkpoint, row.id)


def test_the_shards_are_kept_as_they_came_and_a_run_reads_them(bench, folder):
    row = uploaded(bench, folder)
    assert (row.state, row.reason) == (UploadState.READY, None)
    assert row.facts["architecture"]["inputs"]["tokenizer"] is True
    shards = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}
    assert {name: entry["digest"] for name, entry in row.files.items() if name.endswith(".safetensors")} == {
        f"weights/{name}": digest for name, digest in shards.items()
    }
    assert all(map(bench.files.exists, shards.values()))
    unnamed = {entry["digest"] for entry in row.source["files"].values()} - {e["digest"] for e in row.files.values()}
    bench.until(lambda: not any(map(bench.files.exists, unnamed)))
    run = bench.ended(bench.run(None, row.id, recipe=EIGHT_BITS, preprocessing=None))
    assert (run.state, run.error) == (RunState.SUCCEEDED, None)


def test_a_folder_that_lacks_a_shard_says_which(bench, folder):
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    row = uploaded(bench, folder)
    assert row.state is UploadState.REFUSED
    assert f"llama lacks {shard.name}" in row.reason["message"]
