"""A checkpoint that is used where it lies: no byte of it is stored, and a run on a file that was changed says so."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.jobs.bench import Bench
from tests.zoo import build_tiny
from webapp.store.models import Checkpoint, Run, RunState, UploadState

EIGHT_BITS = {"version": 2, "steps": [{"technique": "weight_quantization", "settings": {"bits": 8}}]}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def bench(tmp_path_factory, models):
    """With the real engine, for which one worker is enough."""
    bench = Bench(tmp_path_factory.mktemp("bench"), "webapp.cli", "worker", "--instance", import_folders=str(models))
    bench.start_worker()
    yield bench
    bench.close()


@pytest.fixture
def folder(models, request):
    path = models / request.node.name
    build_tiny("LlamaForCausalLM", "llama").bfloat16().save_pretrained(path, max_shard_size="10KB")
    return path


def taken_in(bench, path):
    with bench.sessions.begin() as session:
        row = Checkpoint(
            name=path.name, filename=path.name, size_bytes=1, digest="", source={"kind": "path", "path": str(path)}
        )
        session.add(row)
    bench.jobs.enqueue_inspection("checkpoint", row.id)
    return bench.inspected(Checkpoint, row.id)


def ran(bench, checkpoint, seed=0):
    given = {"recipe": EIGHT_BITS, "preprocessing": None, "seed": seed}
    return bench.ended(bench.run(None, checkpoint.id, **given))


def shards_of(folder):
    return sorted(folder.glob("*.safetensors"))


def test_a_folder_is_hashed_and_not_copied_and_a_run_reads_it(bench, folder):
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    checkpoint = taken_in(bench, folder)
    assert (checkpoint.state, checkpoint.reason) == (UploadState.READY, None)
    assert len(checkpoint.digest) == 64
    assert {name.removeprefix("weights/") for name in checkpoint.in_place} == {path.name for path in shards_of(folder)}
    assert checkpoint.size_bytes > sum(path.stat().st_size for path in shards_of(folder))
    assert "weights/index.json" in checkpoint.files
    assert not [name for name in checkpoint.files if name.endswith(".safetensors")]
    assert not any(bench.files.exists(about["digest"]) for about in checkpoint.in_place.values())
    run = ran(bench, checkpoint)
    assert (run.state, run.error) == (RunState.SUCCEEDED, None)
    assert not [artifact.name for artifact in run.artifacts if artifact.name.startswith("weights/")]
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before


@pytest.mark.parametrize("change", ["value", "size", "gone", "link"])
def test_a_run_on_a_file_that_was_changed_says_which_even_where_all_was_computed_before(bench, folder, models, change):
    checkpoint = taken_in(bench, folder)
    assert ran(bench, checkpoint).state is RunState.SUCCEEDED
    shard = shards_of(folder)[0]
    tensors = load_file(shard)
    if change == "value":
        tensors[min(tensors)].add_(1)
        save_file(tensors, shard, {"format": "pt"})
    elif change == "size":
        save_file(tensors | {"more": torch.ones(1)}, shard, {"format": "pt"})
    elif change == "gone":
        shard.unlink()
    else:
        shard.rename(models.parent / f"{shard.name}-outside")
        shard.symlink_to(models.parent / f"{shard.name}-outside")
    run = ran(bench, checkpoint)
    assert run.state is RunState.FAILED
    assert run.error["code"] == "source_changed"
    assert shard.name in run.error["message"]
    told = {
        "value": "SHA-256 is another",
        "size": "bytes and had",
        "gone": "cannot be read where",
        "link": "none of the",
    }
    assert told[change] in run.error["message"]


def test_a_file_that_was_only_touched_is_hashed_once_and_taken_for_the_same(bench, folder):
    checkpoint = taken_in(bench, folder)
    shard = shards_of(folder)[0]
    os.utime(shard, ns=(1, 1))
    assert ran(bench, checkpoint).state is RunState.SUCCEEDED
    assert bench.get(Checkpoint, checkpoint.id).in_place[f"weights/{shard.name}"]["mtime_ns"] == 1


def test_what_a_folder_links_to_outside_of_the_named_ones_is_refused(bench, folder, tmp_path):
    for path in folder.iterdir():
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    checkpoint = taken_in(bench, folder)
    assert checkpoint.state is UploadState.REFUSED
    assert "leads out of the folder" in checkpoint.reason["message"]


def test_a_snapshot_whose_blobs_lie_outside_of_the_named_folders_is_refused(tmp_path_factory, folder):
    """The engine would follow it, for it is Hugging Face's own link; the installation names less than that."""
    cache = tmp_path_factory.mktemp("cache")
    snapshot, blobs = cache / "snapshots" / "abc", cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in folder.iterdir():
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(blobs / path.name)
    bench = Bench(
        tmp_path_factory.mktemp("b"), "webapp.cli", "worker", "--instance", import_folders=str(cache / "snapshots")
    )
    try:
        bench.start_worker()
        checkpoint = taken_in(bench, snapshot)
        assert checkpoint.state is UploadState.REFUSED
        assert "Name the folder that holds the file itself" in checkpoint.reason["message"]
    finally:
        bench.close()


def test_a_path_that_the_settings_do_not_name_is_not_read(bench, tmp_path):
    (tmp_path / "secret.pt").write_text("secret")
    checkpoint = taken_in(bench, tmp_path / "secret.pt")
    assert checkpoint.state is UploadState.REFUSED
    assert "none of the folders" in checkpoint.reason["message"]
    assert bench.get(Run, checkpoint.id) is None
