"""What every importer promises: it knows its own file and no other's, reads it lazily, and damage gets a sentence."""

import pytest
import torch

from webapp.engine.errors import PareError
from webapp.engine.importers import importers
from webapp.engine.importers.base import UntrustedFile
from webapp.engine.progress import Silent


def of_torch_1_5(zoo):
    def build(folder):
        state = torch.load(zoo.checkpoint("mlp")[0].parent / "mlp.pt", weights_only=True)
        torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)

    return zoo.once("state dict of torch 1.5", build) / "old.pth"


FILES = {  # at least one of each format: as it comes, or as Pare writes it
    "safetensors": lambda zoo: zoo.checkpoint("mlp")[0] / "model.safetensors",
    "state_dict": lambda zoo: zoo.checkpoint("mlp")[0].parent / "mlp.pt",
    "state_dict, old": of_torch_1_5,
    "huggingface": lambda zoo: zoo.checkpoint("llama")[0].parent / "llama.zip",
    "gguf": lambda zoo: zoo.written("gguf", "llama")[0] / "model.gguf",
    "onnx": lambda zoo: zoo.written("onnx", "mlp")[0] / "model.onnx",
    "exported_program": lambda zoo: zoo.written("program", "mlp")[0] / "model.pt2",
}
EVERY = pytest.mark.parametrize("name", importers())
OF_EVERY = pytest.mark.parametrize("given", FILES)


def head(path):
    return path.read_bytes()[:512]


@EVERY
def test_it_declares_what_pages_and_dialogs_read(name):
    kind = importers()[name]
    assert kind.name == name
    assert kind.accepts.title
    assert kind.accepts.suffixes
    assert all(suffix.startswith(".") for suffix in kind.accepts.suffixes)
    assert kind.accepts.sentence.endswith(".")
    assert [other.name for other in importers().values() if other.priority == kind.priority] == [name]


def test_there_is_a_file_of_every_format():
    assert {given.partition(",")[0] for given in FILES} == set(importers())


@OF_EVERY
def test_its_importer_is_the_first_to_recognise_it(zoo, given):
    path, name = FILES[given](zoo), given.partition(",")[0]
    assert path.suffix in importers()[name].accepts.suffixes
    assert next(kind.name for kind in importers().values() if kind.recognises(path, head(path))) == name


@EVERY
def test_it_knows_none_that_is_no_checkpoint(tmp_path, name):
    for number, content in enumerate(
        (b"", b"\x00", b"PK", b"PK\x03\x04", b"a text about a model\n" * 40, b"\xff" * 600)
    ):
        path = tmp_path / f"{number}"
        path.write_bytes(content)
        if importers()[name].recognises(path, content[:512]):  # of what it takes for its own it says what is wrong
            with pytest.raises(PareError):
                importers()[name].open(UntrustedFile(path, "f", tmp_path, Silent()))


@OF_EVERY
def test_a_tensor_is_what_it_was_said_to_be_whenever_it_is_read(zoo, tmp_path, given):
    kind = importers()[given.partition(",")[0]]
    opened = kind.open(UntrustedFile(FILES[given](zoo), "given", tmp_path, Silent()))
    assert len(opened.tensors) >= 4
    for tensor in opened.tensors.values():
        one, two = tensor.load(), tensor.load()
        assert (tuple(one.shape), one.dtype) == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(one, two)
    assert not set(opened.tied) & set(opened.tensors)


@OF_EVERY
@pytest.mark.parametrize("filename", ["weights.npz", "no_suffix"])
def test_it_is_told_by_its_bytes_whatever_its_name(bench, zoo, given, filename):
    facts = bench.checkpoint(FILES[given](zoo), filename)
    assert facts.format == given.partition(",")[0]
    assert facts.weights_only_because is None


@OF_EVERY
def test_one_that_is_cut_short_anywhere_is_refused_by_its_name(bench, zoo, given):
    whole = FILES[given](zoo).read_bytes()
    for size in (0, 3, 9, 200, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        said = bench.refusal(bench.file("3f2a", whole[:size]), "mine.dat")
        assert "mine.dat" in said
        assert size < 200 or "cut short" in said or "damaged" in said, said


@OF_EVERY
def test_a_damaged_one_is_read_or_refused_and_leaves_nothing(bench, zoo, given):
    whole, generator = FILES[given](zoo).read_bytes(), torch.Generator().manual_seed(0)
    ends = [*range(400), *range(len(whole) - 400, len(whole))]  # headers, and the listing of an archive
    for number in range(12):
        content = bytearray(whole)
        for _ in range(1 + number % 3):
            at, value = (int(torch.randint(0, n, (), generator=generator)) for n in (len(ends), 256))
            content[ends[at]] = value
        try:
            bench.checkpoint(bench.file("damaged", bytes(content)))
        except PareError:
            assert list(bench.out.iterdir()) == []
