"""Weights of which only some are in memory."""

from dataclasses import replace

import pytest
import torch

from tests import zoo
from webapp.engine.exporters import exporters
from webapp.engine.weights import Dense, Quantized, held
from webapp.engine.weights.artifact import file_of, read_model, write_model
from webapp.engine.weights.held import Weights
from webapp.engine.weights.model import Model


@pytest.mark.parametrize("form", zoo.FORMS)
def test_what_is_put_into_a_file_is_what_was_put(tmp_path, monkeypatch, form):
    monkeypatch.setattr(held, "KEPT_BYTES", 0)
    given = zoo.model("llama", form)
    write_model(given, tmp_path / "before")
    spilled = Model(Weights({}), given.tied, given.architecture)
    spilled.weights.spill_into(tmp_path)
    for name, encoded in given.weights.items():
        spilled.weights[name] = encoded
    assert spilled.weights.plans == given.weights.plans
    assert not [entry for entry in tmp_path.iterdir() if entry.name != "before"], "nobody sees the working file"
    write_model(spilled, tmp_path / "after")
    assert (tmp_path / "after").read_bytes() == (tmp_path / "before").read_bytes()


def test_a_weight_that_is_put_again_is_the_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr(held, "KEPT_BYTES", 0)
    weights = Weights({"a": Dense(torch.ones(4, 4))})
    weights.spill_into(tmp_path)
    for value in (2.0, 3.0):
        weights["a"] = Dense(torch.full((4, 4), value))
        assert float(weights["a"].decode()[0, 0]) == value
    weights["a"] = Dense(torch.zeros(4, 4), zeros_wanted=True)
    assert weights.plan("a").zeros == 16


def test_a_file_is_copied_only_while_it_says_the_same(tmp_path):
    given = zoo.model("llama", "8 bits")
    assert file_of(given) == given.weights.file
    assert file_of(replace(given, files=tmp_path)) is not None
    assert file_of(replace(given, architecture=given.architecture.model_copy(update={"title": "Another"}))) is None
    changed = read_model(given.weights.file)
    name = next(name for name, encoded in changed.weights.items() if isinstance(encoded, Quantized))
    changed.weights[name] = Dense(changed.weights[name].decode())
    assert file_of(changed) is None
    exporters()["safetensors"].write(changed, tmp_path)
    assert isinstance(read_model(tmp_path / "model.safetensors").weights[name], Dense)
