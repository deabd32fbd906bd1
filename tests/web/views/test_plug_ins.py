"""A technique, an importer and an exporter are one file or entry point each, and show wherever there is a choice."""

import ast

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.plug_ins import documented
from tests.web.views.page import Page
from webapp.actions.deployments import deployable
from webapp.actions.packages import offered
from webapp.cli import pare
from webapp.engine.exporters import exporters
from webapp.engine.exporters.reference import tables
from webapp.engine.facts import CheckpointFacts
from webapp.engine.importers.inspect import inspect_checkpoint
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import prepare
from webapp.engine.techniques import Context
from webapp.engine.techniques.reference import as_markdown
from webapp.engine.weights.model import Model
from webapp.store.models import Artifact, Run

SERVED = """
from dataclasses import replace

from webapp.engine.exporters.onnx import OnnxExporter


class OtherOnnx(OnnxExporter):
    name, title, file = "other_onnx", "Another ONNX", "other.onnx"
    can = replace(OnnxExporter.can, libraries=())
"""


@pytest.fixture(params=["a file", "an entry point"])
def added(request, plug_ins):
    """The examples of the documentation, and an exporter whose file onnxruntime serves."""
    rounding, npz = documented("adding-a-technique.md"), documented("adding-a-format.md")
    if request.param == "a file":
        plug_ins.file(rounding, "techniques", "multiples")
        classes = {node.name: node for node in ast.parse(npz).body if isinstance(node, ast.ClassDef)}
        assert list(classes) == ["NpzImporter", "NpzExporter"]
        plug_ins.file(npz, "importers", "npz_files")
        plug_ins.file(npz + SERVED, "exporters", "npz_files")
        return
    plug_ins.package(rounding, "multiples", {"techniques": "multiples = multiples:Rounding"})
    ends = {"importers": "npz = npz_files:NpzImporter", "exporters": "npz = npz_files:NpzExporter"}
    plug_ins.package(npz, "npz_files", ends)
    plug_ins.package(SERVED, "other_onnx", {"exporters": "other_onnx = other_onnx:OtherOnnx"})


@pytest.mark.usefixtures("added")
def test_each_shows_wherever_there_is_a_choice(client, run, session):
    told = {each["name"]: each for each in client.get("/api/v1/techniques").json["items"]}
    assert told["rounding"]["title"] == "Rounding"
    builder = Page(client.get(f"/runs/new?checkpoint={run.checkpoint_id}").text)
    assert "Rounding" in builder.text
    assert {"npz", "other_onnx"} <= {box["value"] for box in builder.of("input", name="exports")}
    assert "Rounding" in client.get("/techniques").text
    upload = Page(client.get("/checkpoints/new").text)
    assert ".npz" in upload.of("input", type="file")[0]["accept"].split(",")
    assert "Arrays by the names of their tensors" in upload.text
    assert "## Rounding" in as_markdown()
    assert "| NumPy archive | `.npz` |" in tables()["importers"]
    assert "| `npz` | `model.npz` |" in tables()["exporters"]
    said = " ".join(CliRunner().invoke(pare, ["compress", "--help"]).output.split())
    assert "NumPy archive (.npz)" in said
    assert "npz (NumPy archive)" in said
    assert "NumPy archive (.npz)" in " ".join(CliRunner().invoke(pare, ["inspect", "--help"]).output.split())
    served = Run(artifacts=[Artifact(name="other.onnx", format="other_onnx", digest="0")])
    assert [artifact.name for artifact in deployable(served)] == ["other.onnx"]
    assert set(offered(served)) == {"onnxruntime", "flask"}


@pytest.mark.usefixtures("added")
def test_each_does_what_it_says(tmp_path):
    state = {"0.weight": torch.randn(6, 4), "0.bias": torch.zeros(6), "2.weight": torch.randn(3, 6)}
    np.savez(tmp_path / "given.npz", **{name: value.numpy() for name, value in state.items()})
    out = tmp_path / "out"
    out.mkdir()
    facts: CheckpointFacts = inspect_checkpoint(tmp_path / "given.npz", "given.npz", out, Silent())
    assert facts.format == "npz"
    model = Model.of_checkpoint(out, facts)
    (step,) = prepare(facts, Recipe.read({"steps": [{"technique": "rounding", "settings": {"step": 0.25}}]}))
    step.technique.apply(model, step.settings, Context(step.layers, 0, Silent()))
    exporters()["npz"].write(model, tmp_path)
    loaded = exporters()["npz"].load(tmp_path, facts.architecture)
    with np.load(tmp_path / "model.npz") as arrays:
        assert np.array_equal(arrays["0.weight"], (state["0.weight"] * 4).round().numpy() / 4)
    assert loaded.module(torch.zeros(2, 4)).shape == (2, 3)
