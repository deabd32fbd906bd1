"""The promises of the file: any reader reads it, the same tensors give the same bytes, no byte is trusted."""

import json
import struct
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from webapp.engine.errors import CheckpointRefused
from webapp.engine.weights.safetensors import DTYPES, LazyTensor, lazy_tensors, read_header, write_safetensors

EVERY_DTYPE = {name: torch.tensor([[0, 1, 2], [3, 4, 5]]).to(getattr(torch, name)) for name in DTYPES.values()}


def same_bytes(one, other):
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_the_reference_implementation_reads_every_dtype(tmp_path):
    path = tmp_path / "a.safetensors"
    size = write_safetensors(path, EVERY_DTYPE, {"format": "pt", "b": "ü"})
    assert size == path.stat().st_size
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "b": "ü"}
        assert all(same_bytes(file.get_tensor(name), tensor) for name, tensor in EVERY_DTYPE.items())


def test_what_the_reference_implementation_wrote_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(EVERY_DTYPE, path, {"format": "pt"})
    metadata, facts, _ = read_header(path)
    assert metadata == {"format": "pt"}
    found = lazy_tensors(path)
    for name, tensor in EVERY_DTYPE.items():
        assert facts[name].shape == (2, 3)
        assert facts[name].dtype == str(tensor.dtype).removeprefix("torch.")
        assert same_bytes(found[name].load(), tensor)


def test_odd_shapes_survive(tmp_path):
    tensors = {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 4), "turned": torch.rand(3, 5).t()}
    write_safetensors(tmp_path / "a.safetensors", tensors)
    loaded = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    own = lazy_tensors(tmp_path / "a.safetensors")
    assert all(torch.equal(own[name].load(), tensor) for name, tensor in tensors.items())


def test_the_same_tensors_give_the_same_bytes_whatever_the_order_of_the_metadata(tmp_path):
    many = {f"key{index}": str(index) for index in range(20)}
    write_safetensors(tmp_path / "a", EVERY_DTYPE, many)
    write_safetensors(tmp_path / "b", EVERY_DTYPE, dict(reversed(many.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_header_keeps_the_given_order_and_the_data_is_aligned(tmp_path):
    tensors = {"z": torch.zeros(3, dtype=torch.int8), "a": torch.zeros(2), "m": torch.zeros(1, dtype=torch.float64)}
    write_safetensors(tmp_path / "a", tensors)
    _, facts, header_bytes = read_header(tmp_path / "a")
    assert list(facts) == ["z", "a", "m"]
    assert header_bytes % 8 == 0
    header = json.loads((tmp_path / "a").read_bytes()[8:header_bytes])
    assert all(header[name]["data_offsets"][0] % tensor.itemsize == 0 for name, tensor in tensors.items())


def test_one_lazy_tensor_is_in_memory_at_a_time(tmp_path):
    made = []

    def load():
        assert not any(reference() is not None for reference in made), "the tensor before is still held"
        values = np.ones(1000, dtype=np.float32)
        made.append(weakref.ref(values))  # its memory is that of the tensor
        return torch.from_numpy(values)

    write_safetensors(tmp_path / "a", {f"t{i}": LazyTensor((1000,), torch.float32, load) for i in range(4)})
    assert len(load_file(tmp_path / "a")) == 4


def test_a_failure_leaves_nothing_behind_and_the_old_file_in_place(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": torch.ones(1)})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="b was declared"):
        write_safetensors(path, {"a": torch.ones(1), "b": LazyTensor((2,), torch.float32, lambda: torch.ones(3))})
    with pytest.raises(ValueError, match="complex64"):
        write_safetensors(path, {"a": torch.ones(1, dtype=torch.complex64)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "declares a header of 0 bytes"),
        (struct.pack("<Q", 10**6) + b"{}", "was cut short: its header takes 1000000 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "not a safetensors file"),
        (raw(b"{nonsense"), "not valid JSON"),
        (raw(b"[" * 100_000), "nested too deeply"),
        (raw(b"[1]"), "not a JSON object"),
        (raw({"a": F32}, b"\0" * 4), "was cut short: its tensors take 8 bytes and only 4"),
        (raw({"a": F32}, b"\0" * 12), "4 bytes after the last tensor"),
        (raw({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, b"\0" * 12), "b in x overlaps a"),
        (raw({"a": {**F32, "data_offsets": [4, 12]}}, b"\0" * 12), "4 bytes between the header and a"),
        (raw({"a": {**F32, "shape": [3]}}, b"\0" * 8), r"shape \[3\] of F32, which is 12 bytes, but .* span 8"),
        (raw({"a": {**F32, "shape": [-2]}}, b"\0" * 8), "no valid dtype, shape and data_offsets"),
        (raw({"a": {**F32, "shape": [True, 2]}}, b"\0" * 8), "no valid dtype, shape and data_offsets"),
        (raw({"a": {**F32, "shape": 2}}, b"\0" * 8), "no valid dtype, shape and data_offsets"),
        (raw({"a": {**F32, "dtype": "C64"}}, b"\0" * 8), "of dtype C64, complex numbers"),
        (raw({"a": {**F32, "dtype": ["F32"]}}, b"\0" * 8), "of dtype"),
        (raw({"__metadata__": {"a": 1}}), "metadata that is not text"),
        (raw(b'{"a":%b,"a":%b}' % ((json.dumps(F32).encode(),) * 2), b"\0" * 8), "names .a. twice"),
    ],
)
def test_what_does_not_add_up_is_refused_with_its_sentence(tmp_path, content, sentence):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointRefused, match=sentence):
        read_header(tmp_path / "x")


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 30))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path_factory, at, value, cut):
    path = tmp_path_factory.mktemp("damaged") / "a.safetensors"
    write_safetensors(path, {"a": torch.ones(3, 2), "b": torch.ones(5, dtype=torch.float16)}, {"format": "pt"})
    content = bytearray(path.read_bytes())
    content[at % len(content)] = value
    path.write_bytes(content[: len(content) - cut])
    try:
        tensors = lazy_tensors(path)
    except CheckpointRefused:
        return
    assert all(tuple(tensor.load().shape) == tensor.shape for tensor in tensors.values())
