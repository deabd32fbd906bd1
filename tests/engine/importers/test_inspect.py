"""Inspection: one normalised form, the same bytes each time; what cannot be trusted is refused and leaves nothing."""

import json
import re
import stat
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import webapp
from webapp.engine.facts import CheckpointFacts
from webapp.engine.progress import Silent
from webapp.engine.weights.safetensors import write_safetensors


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def upload(bench, tensors, name="a.safetensors", metadata=None):
    save_file(tensors, bench.root / name, metadata)
    return bench.root / name


def test_facts_say_what_is_in_the_normalised_file_and_travel_as_json(bench):
    facts = bench.checkpoint(upload(bench, mlp().state_dict()))
    assert facts.weights_bytes == (bench.out / "model.safetensors").stat().st_size
    assert {t.name: t.shape for t in facts.tensors} == {
        "0.bias": (4,),
        "0.weight": (4, 6),
        "2.bias": (3,),
        "2.weight": (3, 4),
    }
    assert [(layer.name, layer.kind) for layer in facts.layers] == [("0", "linear"), ("2", "linear")]
    assert facts.params_total == 43
    assert CheckpointFacts.model_validate_json(facts.model_dump_json()) == facts


def test_the_same_tensors_give_the_same_bytes(bench):
    state, contents = mlp().state_dict(), []
    for index in range(2):
        bench.checkpoint(upload(bench, state, f"{index}.safetensors", {str(n): "x" for n in range(9)}))
        contents.append((bench.out / "model.safetensors").read_bytes())
    assert contents[0] == contents[1]


def test_weights_of_no_known_architecture_are_inspected_and_the_reason_is_said(bench):
    tensors = {
        "token_embedding": torch.ones(5, 4),
        "mix": torch.ones(4, 4),
        "filter": torch.ones(2, 3, 3),
        "b": torch.ones(4),
    }
    facts = bench.checkpoint(upload(bench, tensors))
    assert facts.architecture is None
    assert "does not tell its architecture" in facts.weights_only_because
    kinds = {layer.name: layer.kind for layer in facts.layers}
    assert kinds == {"token_embedding": "embedding", "mix": "linear", "filter": "conv"}


def test_a_transformer_without_its_config_is_told_what_to_upload(bench):
    facts = bench.checkpoint(upload(bench, {"model.layers.0.self_attn.q_proj.weight": torch.ones(4, 4)}))
    assert "upload its whole Hugging Face folder" in facts.weights_only_because


def test_an_architecture_in_the_metadata_is_kept_in_the_normalised_file(bench):
    told = {
        "family": "sequential",
        "steps": [{"op": n, "name": i} for n, i in (("linear", "0"), ("tanh", ""), ("linear", "2"))],
    }
    path = upload(bench, mlp().state_dict(), metadata={"pare_architecture": json.dumps(told)})
    facts = bench.checkpoint(path)
    assert facts.architecture.title == "MLP 6-4-3"
    again = bench.checkpoint(bench.out / "model.safetensors")
    assert again.architecture == facts.architecture
    broken = upload(bench, mlp().state_dict(), "b.safetensors", {"pare_architecture": "{"})
    assert "pare_architecture in its metadata is not valid JSON" in bench.refusal(broken)


def test_progress_only_grows_and_names_the_tensor(bench):
    heard = []

    class Listening(Silent):
        def progress(self, fraction, message=""):
            heard.append((fraction, message))

    from webapp.engine.importers.inspect import inspect_checkpoint

    inspect_checkpoint(upload(bench, mlp().state_dict()), "a", bench._out(), Listening())
    assert [fraction for fraction, _ in heard] == sorted(fraction for fraction, _ in heard)
    assert ("Checking 2.weight") in [message for _, message in heard]


def test_what_the_report_raises_stops_the_inspection_and_leaves_nothing(bench):
    class Stop(Exception):
        pass

    class Stopping(Silent):
        def progress(self, fraction, message=""):
            if fraction > 0.5:
                raise Stop

    from webapp.engine.importers.inspect import inspect_checkpoint

    out = bench._out()
    with pytest.raises(Stop):
        inspect_checkpoint(upload(bench, mlp().state_dict()), "a", out, Stopping())
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "x is empty"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "an HDF5 file, as Keras writes it.*upload what"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 99, "a TensorFlow Lite model"),
        (b"\x1f\x8b" + b"\0" * 99, "a gzip archive; unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"hello, this is a text", "of no format that Pare knows"),
        (struct.pack("<Q", 500) + b'{"a":', "was cut short: its header takes 500 bytes and the file has only 13"),
    ],
)
def test_what_is_no_checkpoint_is_named(bench, content, sentence):
    assert re.search(sentence, bench.refusal(bench.file("x", content)))


def test_integers_alone_are_nothing_to_compress(bench):
    assert "no floating point tensors" in bench.refusal(upload(bench, {"a": torch.arange(4)}))


def test_weights_that_are_not_finite_are_counted(bench):
    bad = torch.ones(3, 3)
    bad[0, 0], bad[1, 1], bad[2, 2] = float("nan"), float("inf"), float("-inf")
    said = bench.refusal(upload(bench, {"ok": torch.ones(2), "layer.weight": bad}))
    assert "layer.weight holds 1 NaN and 2 infinite values of 9" in said


def test_a_truncated_file_is_refused(bench):
    content = upload(bench, mlp().state_dict()).read_bytes()
    said = bench.refusal(bench.file("cut.safetensors", content[:-20]))
    assert said.startswith("cut.safetensors was cut short: its tensors take 172 bytes and only 152 are there")


def test_the_sentence_names_the_file_as_its_owner_does(bench):
    path = bench.file("3f2a", upload(bench, mlp().state_dict()).read_bytes()[:-20])
    assert bench.refusal(path, "mine.safetensors").startswith("mine.safetensors was cut short")


# Archives

CONFIG = json.dumps({"model_type": "unheard-of"})


def weights(bench, tensors=None):
    write_safetensors(bench.root / "w", tensors or {"a": torch.ones(4, 4)}, {"format": "pt"})
    return (bench.root / "w").read_bytes()


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "C:/evil", "..\\evil", "model/..\\..\\evil"])
def test_names_that_lead_out_of_the_folder_are_refused(bench, name):
    path = bench.zip("a.zip", {"config.json": CONFIG, "model.safetensors": weights(bench), name: "x"})
    assert "leads out of its folder; nothing was unpacked" in bench.refusal(path)
    assert not (bench.root / "evil").exists()


def test_links_are_refused(bench):
    path = bench.zip("a.zip", {"config.json": CONFIG, "model.safetensors": weights(bench)})
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("tokenizer.json")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert '"tokenizer.json", which is a link' in bench.refusal(path)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "unused.txt"])
def test_a_bomb_is_refused_before_it_is_unpacked(bench, name):
    path = bench.root / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("config.json", CONFIG)
        with archive.open(name, "w") as member:
            for _ in range(300):
                member.write(bytes(2**20))
    assert "would unpack to 3145728" in bench.refusal(path)


def test_a_member_that_unpacks_to_more_than_it_declares_is_refused(bench):
    path = bench.zip("a.zip", {"config.json": CONFIG, "model.safetensors": weights(bench) + bytes(100_000)})
    content = bytearray(path.read_bytes())
    real = struct.pack("<I", len(weights(bench)) + 100_000)
    lie = struct.pack("<I", len(weights(bench)))
    assert content.count(real) == 2  # the local header and the central directory
    bench.refusal(bench.file("b.zip", bytes(content.replace(real, lie))))


def test_the_same_name_twice_is_refused(bench):
    path = bench.zip("a.zip", {"config.json": CONFIG, "model.safetensors": weights(bench)})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", CONFIG)
    assert "two files of the same name" in bench.refusal(path)


def test_a_tensor_in_two_shards_is_refused(bench):
    files = {f"model-0000{n}-of-00002.safetensors": weights(bench) for n in (1, 2)}
    assert "a is in two files of weights" in bench.refusal(bench.zip("a.zip", {"config.json": CONFIG, **files}))


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"adapter_config.json": "{}", "adapter_model.safetensors": "x"}, "an adapter, not a model"),
        ({"metadata.json": "{}", "config.json": "{}", "model.weights.h5": "x"}, "a Keras archive.*upload what"),
        ({"m/saved_model.pb": "x", "m/variables/variables.index": "x"}, "a TensorFlow SavedModel.*upload what"),
        ({"m/config.json": "{}", "m/tf_model.h5": "x"}, "its weights in tf_model.h5 only.*upload what"),
        ({"m/config.json": "{}", "m/flax_model.msgpack": "x"}, "its weights in flax_model.msgpack only.*upload what"),
        ({"x.npy": "x"}, "upload it as a dataset"),
        ({"readme.txt": "x"}, "a zip without a config.json"),
    ],
)
def test_an_archive_of_something_else_is_named(bench, files, sentence):
    assert re.search(sentence, bench.refusal(bench.zip("a.zip", files)))


def test_many_tensors_are_inspected_in_seconds(bench):
    """0.1 ms of one core for each, and no cost that grows with their square; a .pt has a file for each."""
    names = [f"blocks.{n // 900}.experts.{n % 900}.up.weight" for n in range(12_000)]
    state = {name: torch.full((2, 2), 1.0 + index) for index, name in enumerate(names)}
    for path in (upload(bench, state, "many.safetensors"), bench.save("many.pt", state)):
        began = time.process_time()
        facts = bench.checkpoint(path)
        assert time.process_time() - began < 0.0006 * len(names)
        assert [tensor.name for tensor in facts.tensors] == (names if path.suffix == ".pt" else sorted(names))
        assert len(facts.layers) == len(names)


INSPECTION = """
import sys
from pathlib import Path
from webapp.engine.importers.inspect import inspect_checkpoint
from webapp.engine.progress import Silent

facts = inspect_checkpoint(Path(sys.argv[1]), "digits_cnn.safetensors", Path(sys.argv[2]), Silent())
print(facts.architecture.family, *({"transformers", "torch._dynamo", "sympy", "gguf", "onnx"} & set(sys.modules)))
"""


def test_a_small_network_is_inspected_without_what_takes_seconds_to_import(tmp_path):
    sample = Path(webapp.__file__).parent / "samples" / "digits_cnn.safetensors"
    told = subprocess.run([sys.executable, "-c", INSPECTION, sample, tmp_path], capture_output=True, text=True)
    assert (told.stdout.split(), told.stderr) == (["cnn"], "")
