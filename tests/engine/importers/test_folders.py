"""A folder, or a file with what belongs to it beside it, is taken in where it lies: nothing of it is written anew."""

import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.importers.tiny_gguf import model_of, write_gguf
from webapp.engine.architectures.build import build
from webapp.engine.errors import CheckpointRefused
from webapp.engine.importers.located import display_name
from webapp.engine.importers.reading import digest_of_sources
from webapp.engine.weights.model import Model
from webapp.engine.weights.originals import original_sizes, original_tensors
from webapp.engine.weights.safetensors import write_safetensors

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    return path


def as_it_was(folder):
    """Every file and link, so that a change of any of them shows."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.is_symlink() or path.read_bytes())
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def cached(folder, parent, repository="models--someone--tiny", revision="a" * 40):
    """The folder as Hugging Face's cache has it: a snapshot of links to blobs."""
    blobs, snapshot = parent / repository / "blobs", parent / repository / "snapshots" / revision
    blobs.mkdir(parents=True, exist_ok=True)
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    (parent / repository / "refs").mkdir(exist_ok=True)
    (parent / repository / "refs" / "main").write_text(revision)
    return snapshot


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shard_size", ["10KB", "1GB"])
@pytest.mark.parametrize(("kind", "model_type"), [("GPT2LMHeadModel", "gpt2"), ("BertModel", "bert")])
def test_a_folder_answers_as_its_zip_does_and_is_not_copied(bench, folder, tiny, kind, model_type, dtype, shard_size):
    tiny(kind, model_type).to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    before = as_it_was(folder)
    zipped = bench.checkpoint(bench.zip_folder(folder))
    expected, sizes = bench.tensors(), original_sizes(bench.out)
    facts = bench.checkpoint(folder, in_place=True)
    assert facts.model_copy(update={"sources": ()}) == zipped
    assert {name: tensor.dtype for name, tensor in bench.tensors().items()} == dict.fromkeys(expected, dtype)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in bench.tensors().items())
    assert list(bench.tensors()) == list(expected), "stages go by this order"
    assert original_sizes(bench.out) == sizes, "the original weighs the same, however it came"
    written = sum(path.stat().st_size for path in bench.out.rglob("*") if path.is_file() and not path.is_symlink())
    assert written < sizes[0] / 2
    assert as_it_was(folder) == before


def test_the_model_is_built_from_the_files_where_they_lie(bench, folder, tiny):
    model = tiny("GPT2LMHeadModel", "gpt2").eval()
    model.save_pretrained(folder, max_shard_size="10KB")
    facts = bench.checkpoint(folder, in_place=True)
    ids = torch.arange(12).reshape(2, 6)
    with torch.inference_mode():
        ours, theirs = build(Model.of_checkpoint(bench.out, facts)).eval()(ids), model(ids).logits
    assert torch.equal(ours.logits if hasattr(ours, "logits") else ours, theirs)


def test_what_was_read_is_named_with_its_hash(bench, folder, tiny, save_tokenizer):
    tiny("BertModel", "bert").save_pretrained(folder, max_shard_size="10KB")
    save_tokenizer(folder)
    (folder / "README.md").write_text("of no matter")
    facts = bench.checkpoint(folder, in_place=True)
    for source in facts.sources:
        path = folder / source.name
        assert (source.size_bytes, source.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
        assert source.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    names = {source.name for source in facts.sources}
    assert {"config.json", "tokenizer.json"} < names
    assert {path.name for path in folder.glob("*.safetensors")} < names
    assert "README.md" not in names
    first = digest_of_sources(facts.sources)
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert digest_of_sources(bench.checkpoint(folder, in_place=True).sources) != first


@pytest.mark.parametrize("named", ["snapshot", "repository", "file"])
def test_hugging_face_s_cache_is_links_and_is_read_as_it_is(bench, folder, tiny, tmp_path, named):
    tiny("BertModel", "bert").save_pretrained(folder, max_shard_size="10KB")
    cache = tmp_path / "hub"
    snapshot = cached(folder, cache)
    expected = bench.checkpoint(folder, in_place=True)
    before = as_it_was(cache)
    shard = next(snapshot.glob("*.safetensors"))
    path = {"snapshot": snapshot, "repository": snapshot.parents[1], "file": shard}[named]
    facts = bench.checkpoint(path, in_place=True)
    assert facts.layers == expected.layers
    assert all(
        (bench.out / "weights" / file.name).resolve().parent.name == "blobs" for file in folder.glob("*.safetensors")
    )
    assert as_it_was(cache) == before
    own = f"/{shard.name}" if named == "file" else ""
    assert display_name(path) == f"someone/tiny{own}"


def test_of_several_revisions_main_is_meant_or_one_has_to_be_named(bench, folder, tiny, tmp_path):
    tiny("BertModel", "bert").save_pretrained(folder)
    first = cached(folder, tmp_path / "hub")
    second = cached(folder, tmp_path / "hub", revision="b" * 40)
    assert bench.checkpoint(second.parents[1], in_place=True).architecture is not None
    (first.parents[1] / "refs" / "main").unlink()
    told = bench.refusal(first.parents[1], in_place=True)
    assert f"snapshots/{'a' * 40}, snapshots/{'b' * 40}. Name one" in told


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_a_link_that_leads_out_of_the_folder_is_refused(bench, folder, tiny, tmp_path, name):
    tiny("BertModel", "bert").save_pretrained(folder)
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / name).touch()
    (folder / name).rename(outside / "secret")
    (folder / name).symlink_to(outside / "secret")
    told = bench.refusal(folder, in_place=True)
    assert f'"{name}" in folder is a link' in told
    assert "leads out of the folder" in told


def test_a_folder_that_only_calls_itself_a_snapshot_opens_nothing_but_its_own_blobs(bench, folder, tiny, tmp_path):
    tiny("BertModel", "bert").save_pretrained(folder)
    snapshot = cached(folder, tmp_path / "hub")
    (tmp_path / "hub" / "secret").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to(tmp_path / "hub" / "secret")
    assert "leads out of the folder" in bench.refusal(snapshot, in_place=True)


def test_links_within_the_folder_are_followed(bench, folder, tiny):
    tiny("BertModel", "bert").save_pretrained(folder)
    (folder / "kept").mkdir()
    (folder / "model.safetensors").rename(folder / "kept" / "weights")
    (folder / "model.safetensors").symlink_to("kept/weights")
    assert bench.checkpoint(folder, in_place=True).architecture is not None


def test_a_link_to_nothing_says_that_a_download_is_not_whole(bench, folder, tiny, tmp_path):
    tiny("BertModel", "bert").save_pretrained(folder)
    snapshot = cached(folder, tmp_path / "hub")
    (snapshot / "model.safetensors").resolve().unlink()
    assert "which is not there; download it again" in bench.refusal(snapshot, in_place=True)


def test_what_is_no_file_is_no_file_of_weights(bench, folder, tiny):
    tiny("BertModel", "bert").save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert "no weights beside it" in bench.refusal(folder, in_place=True)


def test_code_that_a_tokenizer_points_to_is_left_out_and_its_file_is_not_touched(bench, folder, tiny, save_tokenizer):
    tiny("BertModel", "bert").save_pretrained(folder)
    save_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    before = as_it_was(folder)
    facts = bench.checkpoint(folder, in_place=True)
    assert "never run" in " ".join(facts.notes)
    assert "auto_map" not in (bench.out / "tokenizer_config.json").read_text()
    assert as_it_was(folder) == before


def test_a_shard_brings_the_others_and_another_file_of_weights_is_taken_instead(bench, folder, tiny):
    model = tiny("GPT2LMHeadModel", "gpt2")
    model.save_pretrained(folder, max_shard_size="10KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    expected = bench.checkpoint(folder, in_place=True)
    assert bench.checkpoint(shards[1], in_place=True).layers == expected.layers
    save_file({name: value + 1 for name, value in tensors_of(shards).items()}, folder / "later.safetensors")
    facts = bench.checkpoint(folder / "later.safetensors", in_place=True)
    assert facts.layers == expected.layers
    assert facts.notes[0].startswith("The weights are those of later.safetensors; left aside: ")
    assert torch.equal(bench.tensors()["transformer.wte.weight"], model.transformer.wte.weight.detach() + 1)
    shards[2].unlink()
    assert f"lacks {shards[2].name}" in bench.refusal(shards[1], in_place=True)


def tensors_of(shards):
    return {name: value for shard in shards for name, value in load_file(shard).items()}


def test_a_config_of_some_other_program_is_not_what_belongs_to_a_file(bench, tmp_path):
    write_safetensors(tmp_path / "mlp.safetensors", {"0.weight": torch.ones(2, 2), "2.weight": torch.ones(3, 2)})
    (tmp_path / "config.json").write_text('{"port": 8000}')
    facts = bench.checkpoint(tmp_path / "mlp.safetensors", in_place=True)
    assert facts.format == "safetensors"
    assert (bench.out / "weights" / "mlp.safetensors").resolve() == tmp_path / "mlp.safetensors"


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_plain_file_is_used_where_it_lies_too(bench, tmp_path, dtype):
    given = {"0.weight": torch.randn(3, 5).to(dtype), "2.weight": torch.randn(1, 3).to(dtype)}
    save_file(given, tmp_path / "mlp.safetensors")
    facts = bench.checkpoint(tmp_path / "mlp.safetensors", in_place=True)
    assert facts.weights_bytes == original_sizes(bench.out)[0]
    assert not (bench.out / "model.safetensors").exists()
    assert all(torch.equal(bench.tensors()[name], value) for name, value in given.items())


def test_weights_that_have_to_be_written_anew_are(bench, folder, tiny):
    model = tiny("BertModel", "bert")
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    before = as_it_was(folder)
    bench.checkpoint(folder, in_place=True)
    assert (bench.out / "model.safetensors").exists()
    assert not (bench.out / "weights").exists()
    assert as_it_was(folder) == before


def test_names_of_an_older_version_are_converted_into_a_copy(bench, folder, tiny):
    tiny("BertModel", "bert").save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    older = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    named = {next((n.replace(now, old) for now, old in older.items() if now in n), n): v for n, v in tensors.items()}
    assert named.keys() != tensors.keys()
    save_file(named, folder / "model.safetensors")
    bench.checkpoint(folder, in_place=True)
    assert (bench.out / "model.safetensors").exists()
    assert all(torch.equal(value, tensors[name]) for name, value in bench.tensors().items())


def test_a_folder_with_one_file_means_that_file(bench, folder):
    write_gguf(folder / "model.gguf", model_of("llama"))
    (folder / "README.md").write_text("hello")
    assert bench.checkpoint(folder, in_place=True).format == "gguf"
    (folder / "other.gguf").write_bytes((folder / "model.gguf").read_bytes())
    told = bench.refusal(folder, in_place=True)
    assert "several files that may be a checkpoint: model.gguf, other.gguf. Name one of them" in told


def test_a_folder_that_is_no_checkpoint_says_what_to_name(bench, folder, tiny):
    assert "without a file that is a checkpoint; name another" in bench.refusal(folder, in_place=True)
    (folder / "unet").mkdir()
    tiny("BertModel", "bert").save_pretrained(folder / "unet")
    assert "name one of the folders in it: unet" in bench.refusal(folder, in_place=True)
    (folder / "model_index.json").write_text("{}")
    assert "a pipeline of several models; name the folder of one: unet" in bench.refusal(folder, in_place=True)
    (folder / "model_index.json").unlink()
    (folder / "adapter_config.json").write_text("{}")
    assert "is an adapter, not a model" in bench.refusal(folder, in_place=True)


def test_a_file_that_is_written_to_while_it_is_read_is_refused(bench, folder, tiny, monkeypatch):
    tiny("BertModel", "bert").save_pretrained(folder)
    monkeypatch.setattr(
        "webapp.engine.importers.inspect.lie_in_files",
        lambda *_: (folder / "model.safetensors").touch() or True,
    )
    assert "was written to while it was read" in bench.refusal(folder, in_place=True)


def test_a_file_that_was_changed_since_does_not_pass_for_what_it_was(bench, folder, tiny):
    tiny("BertModel", "bert").save_pretrained(folder)
    bench.checkpoint(folder, in_place=True)
    save_file({"other": torch.ones(3)}, folder / "model.safetensors")
    with pytest.raises(CheckpointRefused, match="was changed since it was taken in"):
        original_tensors(bench.out)


def test_an_upload_of_one_file_never_looks_beside_itself(bench, folder, tiny):
    tiny("BertModel", "bert").save_pretrained(folder)
    facts = bench.checkpoint(folder / "model.safetensors")
    assert facts.format == "safetensors"
    assert facts.sources == ()
    assert (bench.out / "model.safetensors").exists()
