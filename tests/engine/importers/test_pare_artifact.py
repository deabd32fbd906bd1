"""A file that Pare made comes back: what is compressed is refused with the way out, what is plain is read."""

from webapp.engine.progress import Silent
from webapp.engine.recipe import StepSettings
from webapp.engine.techniques import Context, techniques
from webapp.engine.weights.artifact import write_model
from webapp.engine.weights.model import Model


def made(bench, mlp, technique, **settings):
    folder, facts = mlp
    model, found = Model.of_checkpoint(folder, facts), techniques()[technique]
    layers = [layer for layer in facts.units() if layer.kind in found.layers]
    found.apply(model, StepSettings(found.Settings(**settings)), Context(layers, 0, Silent()))
    write_model(model, bench.root / "again.safetensors")
    return bench.root / "again.safetensors"


def test_a_compressed_file_is_refused_with_the_way_out(bench, mlp):
    said = bench.refusal(made(bench, mlp, "weight_quantization"))
    assert "compressed by Pare already (2 weights" in said
    assert "upload the checkpoint that it was made from" in said


def test_a_file_that_was_only_cast_is_a_checkpoint_like_any_other(bench, mlp):
    facts = bench.checkpoint(made(bench, mlp, "cast", dtype="bfloat16"))
    assert set(facts.dtypes) == {"bfloat16"}
    assert facts.architecture is not None
