"""State dicts of torch.save: unwrapped with a note, never run, and refused with what is wrong with which thing."""

import argparse
import collections
import io
import pickle
import re
import zipfile

import pytest
import torch
from torch import nn


class Thing:
    """What a pickle would import."""


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


STATE = mlp().state_dict()


def same(bench, state=STATE):
    found = bench.tensors()
    return list(found) == list(state) and all(torch.equal(found[name], tensor) for name, tensor in state.items())


def legacy(value):
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def test_the_format_before_torch_1_6_is_read(bench):
    facts = bench.checkpoint(bench.file("old.pth", legacy(STATE)))
    assert facts.format == "state_dict"
    assert same(bench)


@pytest.mark.parametrize(
    ("wrapped", "notes"),
    [
        ({"state_dict": STATE, "epoch": 3}, ['under "state_dict"', "Dropped what lay beside them: epoch"]),
        ({"model": STATE, "optimizer": {"state": {0: {"m": torch.ones(3)}}}}, ['under "model"', "optimizer"]),
        ({"model": {"state_dict": STATE}}, ['under "model"', 'under "state_dict"']),
        ({"state_dict": STATE, "state_dict_ema": STATE}, ["state_dict_ema"]),
        ({"checkpoint_42": STATE}, ['under "checkpoint_42"']),
        ({f"module.{name}": value for name, value in STATE.items()}, ['The prefix "module." was taken off']),
        ({f"module._orig_mod.{name}": v for name, v in STATE.items()}, ['"module."', '"_orig_mod."']),
        ({**STATE, "epoch": 3, "tag": "x"}, ["Ignored what is not a tensor: epoch, tag"]),
    ],
)
def test_wrappers_are_taken_off_with_a_note(bench, wrapped, notes):
    facts = bench.checkpoint(bench.save("a.pt", wrapped))
    assert same(bench)
    assert all(any(expected in note for note in facts.notes) for expected in notes)


def test_an_ordered_dict_of_parameters_is_a_state_dict(bench):
    bench.checkpoint(bench.save("a.pt", collections.OrderedDict(mlp().named_parameters())))
    assert same(bench)


def test_a_slice_leaves_the_rest_of_its_storage_behind(bench):
    whole = torch.rand(100, 1000)
    facts = bench.checkpoint(bench.save("a.pt", {"weight_": whole[:3], "turned": whole[:5].t()}))
    assert facts.weights_bytes < 60_000
    assert torch.equal(bench.tensors()["turned"], whole[:5].t())


def test_tensors_that_share_all_of_a_storage_are_stored_once(bench):
    weight = torch.rand(10, 4)
    facts = bench.checkpoint(bench.save("a.pt", {"embed.weight": weight, "head.weight": weight, "other": weight[:5]}))
    assert facts.tied == {"head.weight": "embed.weight"}
    assert set(bench.tensors()) == {"embed.weight", "other"}
    assert facts.params_total == 60


@pytest.mark.parametrize("old", [False, True])
def test_a_foreign_object_is_named_and_never_made(bench, old):
    content = {"weight": torch.ones(2, 2), "args": argparse.Namespace(lr=0.1)}
    path = bench.file("a.pt", legacy(content)) if old else bench.save("a.pt", content)
    said = bench.refusal(path)
    assert "a pickled object of type argparse.Namespace" in said
    assert "torch.save(model.state_dict(), path)" in said


@pytest.mark.parametrize("old", [False, True])
def test_nothing_in_a_pickle_is_run(bench, old):
    ran = bench.root / "ran"
    content = {"weight": torch.ones(2, 2), "x": Evil(ran)}
    path = bench.file("a.pt", legacy(content)) if old else bench.save("a.pt", content)
    assert re.search(r"of type (_?io|builtins|__builtin__)\.open", bench.refusal(path))
    assert not ran.exists()


def test_a_plain_pickle_is_not_opened(bench):
    ran = bench.root / "ran"
    assert "a Python pickle that torch.save did not write" in bench.refusal(bench.file("a.pt", pickle.dumps(Evil(ran))))
    assert not ran.exists()


def test_a_whole_module_is_refused_with_what_to_do(bench):
    said = bench.refusal(bench.save("a.pt", mlp()))
    assert "a whole pickled module (torch.nn.modules.container.Sequential)" in said
    assert "torch.save(model.state_dict(), path)" in said


def test_torchscript_is_refused(bench):
    path = bench.root / "a.pt"
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.trace(mlp(), torch.ones(1, 6)).save(path)
    said = bench.refusal(path)
    assert "TorchScript" in said
    assert "torch.jit.load(path).state_dict()" in said


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([torch.ones(2)], "holds a list, not a state dict"),
        (torch.ones(2), "holds a Tensor, not a state dict"),
        ({}, "holds no tensors of a model"),
        ({"epoch": 1}, "holds no tensors of a model"),
        ({"state": {0: {"m": torch.ones(2)}}, "param_groups": []}, "the state of an optimizer"),
        ({"encoder": STATE, "decoder": STATE}, "several groups of tensors: encoder, decoder"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "a in a.pt is a complex64 tensor"),
        ({"a": torch.eye(3).to_sparse()}, "a in a.pt is a sparse_coo tensor"),
        ({"a": torch.empty(3, device="meta")}, "a in a.pt is a meta tensor"),
        ({"a": torch.arange(3)}, "no floating point tensors"),
        ({"a": torch.empty(0, 3)}, "no floating point tensors"),
        ({"a": torch.tensor([1.0, float("inf")])}, "a holds 1 infinite values of 2"),
        ({"a": torch.tensor([float("nan")]).bfloat16()}, "a holds 1 NaN values of 1"),
        ({"a": torch.tensor([float("nan")]).to(torch.float8_e4m3fn)}, "a holds 1 NaN values of 1"),
        ({"a": torch.ones(1).expand(50_000_000)}, "views that repeat what is stored"),
    ],
)
def test_what_is_no_model_is_refused_with_its_sentence(bench, value, sentence):
    assert sentence in bench.refusal(bench.save("a.pt", value))


def test_compressed_members_are_refused_before_anything_is_inflated(bench):
    with zipfile.ZipFile(bench.save("a.pt", STATE)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert "compressed, which torch.save never does" in bench.refusal(bench.zip("b.pt", files))


def test_a_pickle_that_claims_a_larger_tensor_than_is_stored_is_refused(bench):
    """(4,) floats stored, (2**33,) claimed."""
    with zipfile.ZipFile(bench.save("a.pt", {"a": torch.ones(4)})) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in files if name.endswith("data.pkl"))
    size = pickle.dumps((4,), 2)[2:-1]  # K\x04\x85q\x00
    assert size[:3] in files[name]
    files[name] = files[name].replace(size[:3], b"\x8a\x05\x00\x00\x00\x00\x02\x85")
    said = bench.refusal(bench.zip("b.pt", files, zipfile.ZIP_STORED))
    assert "views that repeat" in said or "damaged" in said
