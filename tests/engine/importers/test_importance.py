"""Importance matrices: both forms of llama.cpp's files, beside a model or named, and a sentence for each bad one."""

import struct

import gguf
import numpy as np
import pytest
import torch

from tests.engine.importers.tiny_gguf import model_of, write_gguf
from webapp.engine.errors import CheckpointRefused
from webapp.engine.importers.gguf.importance import FILE, Entry, Importance, read_importance, write_importance
from webapp.engine.importers.inspect import inspect_checkpoint
from webapp.engine.progress import Silent

NAMES = [f"blk.{block}.{part}.weight" for block in (0, 1) for part in ("attn_q", "attn_k", "attn_v", "attn_output")]
NAMES += [f"blk.{block}.ffn_{part}.weight" for block in (0, 1) for part in ("gate", "up", "down")]
WIDE = 96  # inputs of ffn_down in the tiny model; the others have 64


def matrix(names=NAMES, **changes):
    drawn = torch.Generator().manual_seed(0)
    widths = {name: WIDE if "down" in name else 64 for name in names} | changes
    entries = {
        name: Entry(torch.rand(1, width, generator=drawn) * 512, torch.tensor([512.0]))
        for name, width in widths.items()
    }
    return Importance(entries, 1, 512, ("calibration.txt",))


def older(entries, trailer=b""):
    """As llama-imatrix wrote files before it wrote GGUF: [(name, calls, numbers)]."""
    raw = struct.pack("<i", len(entries))
    for name, calls, values in entries:
        raw += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values))
        raw += np.asarray(values, "<f4").tobytes()
    return raw + trailer


def test_a_file_is_written_as_llama_quantize_reads_it(tmp_path):
    """The keys, names and shapes that tools/quantize/quantize.cpp (`load_imatrix`) asks for."""
    made = matrix()
    write_importance(tmp_path / FILE, made)
    reader = gguf.GGUFReader(tmp_path / FILE)
    keys = ("general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")
    assert [reader.get_field(key).contents() for key in keys] == ["imatrix", ["calibration.txt"], 1, 512]
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for name, entry in made.entries.items():
        sums, counts = tensors[f"{name}.in_sum2"], tensors[f"{name}.counts"]
        assert (sums.tensor_type.name, counts.tensor_type.name) == ("F32", "F32")
        assert (list(sums.shape), list(counts.shape)) == ([entry.sums.numel(), 1], [1, 1])
        assert np.array_equal(sums.data / counts.data, entry.means.numpy())
    first = (tmp_path / FILE).read_bytes()
    write_importance(tmp_path / FILE, read_importance(tmp_path / FILE, FILE))
    assert (tmp_path / FILE).read_bytes() == first


def test_the_older_form_holds_the_same(bench):
    values = np.linspace(0, 3, 64, dtype=np.float32)
    for trailer in (b"", struct.pack("<i", 7), struct.pack("<ii", 7, 3) + b"abc"):
        path = bench.file("imatrix.dat", older([("blk.0.attn_q.weight", 4, values * 4)], trailer))
        found = read_importance(path, "imatrix.dat")
        assert torch.equal(found.entries["blk.0.attn_q.weight"].means, torch.from_numpy(values)[None])
        assert (found.chunks, found.datasets) == (7 if trailer else 0, ("abc",) if len(trailer) > 4 else ())


def test_what_is_wrong_with_a_file_is_said(bench, tmp_path):
    row = ("blk.0.attn_q.weight", 1, np.ones(64))
    write_importance(tmp_path / "good.gguf", matrix())
    good = (tmp_path / "good.gguf").read_bytes()
    whole = older([row])
    nan, negative = (older([(row[0], 1, [value] + 63 * [1.0])]) for value in (np.nan, -1.0))
    cases = {
        whole[:-3]: "ends where 3 more bytes should be: it was cut short",
        older([row, row]): "holds blk.0.attn_q.weight twice",
        nan: "holds numbers for blk.0.attn_q.weight that are not finite",
        older([(row[0], 1, [np.inf] * 64)]): "not finite",
        negative: "holds negative numbers for blk.0.attn_q.weight",
        older([(row[0], -1, np.ones(64))]): 'has "-1 where the calls of blk.0.attn_q.weight should be"',
        struct.pack("<i", 2**31 - 1): "where how many entries it has should be",
        struct.pack("<iii", 1, 10**9, 1): "where the length of a name should be",
        older([]): "is an importance matrix without entries",
        b"ab": "it was cut short",
        good[:-40]: "it was cut short or damaged",
        good.replace(b"attn_q.weight.counts", b"attn_q.weight.xounts"): "is damaged",
        write_gguf(tmp_path / "model.gguf", model_of("llama")).read_bytes(): 'is a GGUF file of the type "model"',
    }
    for content, sentence in cases.items():
        with pytest.raises(CheckpointRefused) as refused:
            read_importance(bench.file("a.imatrix", content), "a.imatrix")
        assert sentence in refused.value.message
        assert refused.value.message.startswith("a.imatrix ")


def test_one_that_lies_beside_the_weights_comes_along(bench, tmp_path):
    folder = tmp_path / "model"
    model_of("llama").save_pretrained(folder)
    write_importance(folder / "tiny-imatrix.gguf", matrix())
    for facts in (bench.checkpoint(bench.zip_folder(folder)), bench.checkpoint(folder, in_place=True)):
        assert facts.importance == "1 chunk of 512 tokens of calibration.txt"
        assert facts.notes[-1].startswith("Its importance matrix, tiny-imatrix.gguf (1 chunk of 512 tokens of calib")
        assert set(read_importance(bench.out / FILE, FILE).entries) == set(NAMES)
    assert "tiny-imatrix.gguf" in {source.name for source in facts.sources}
    write_importance(folder / "imatrix.gguf", matrix())
    assert "Beside the weights lie imatrix.gguf, tiny-imatrix.gguf" in bench.checkpoint(folder, in_place=True).notes[-1]


def test_one_beside_a_gguf_in_a_folder_comes_along(bench, tmp_path):
    folder = tmp_path / "downloaded"
    folder.mkdir()
    write_gguf(folder / "tiny-f32.gguf", model_of("llama"))
    (folder / "imatrix.dat").write_bytes(older([(NAMES[0], 2, np.ones(64))]))
    for path in (folder, folder / "tiny-f32.gguf"):
        facts = bench.checkpoint(path, in_place=True)
        assert {source.name for source in facts.sources} == {"tiny-f32.gguf", "imatrix.dat"}
        assert "It says nothing of model.layers.0.self_attn.k_proj" in facts.notes[-1]
        assert facts.importance == ""


def test_one_of_another_model_is_left_aside_or_refused_where_it_was_named(bench, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", model_of("llama"))
    narrow = matrix(**{NAMES[0]: 32})
    sentence = "is of another model: it has 32 numbers for blk.0.attn_q.weight, whose inputs are 64 here"
    for made, why in ((narrow, sentence), (matrix(["blk.7.attn_q.weight"]), "no layer of this one is among blk.7")):
        write_importance(tmp_path / "imatrix.gguf", made)
        facts = bench.checkpoint(path, in_place=True)
        assert facts.importance is None
        assert why in facts.notes[-1]
        assert "was left aside" in facts.notes[-1]
        with pytest.raises(CheckpointRefused, match=why):
            inspect_checkpoint(path, "tiny.gguf", bench._out(), Silent(), importance=tmp_path / "imatrix.gguf")
        assert list(bench.out.iterdir()) == []
