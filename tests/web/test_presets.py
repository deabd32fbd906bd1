import pytest

from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, LayerFacts, TensorFacts
from webapp.engine.run.predict import predict
from webapp.web.views.run_builder import PRESETS


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.title)
def test_every_preset_makes_an_ordinary_checkpoint_smaller(preset):
    tensor = TensorFacts(name="a.weight", shape=(256, 256), dtype="float32")
    layer = LayerFacts(name="a", weight="a.weight", kind="linear", shape=(256, 256))
    config = {"steps": [], "classes": 256}
    spec = ArchitectureSpec(family="sequential", title="MLP", task="classification", config=config)
    about = {"format": "safetensors", "weights_bytes": tensor.bytes + 80, "architecture": spec}
    facts = CheckpointFacts(tensors=(tensor,), layers=(layer,), **about)
    prediction = predict(facts, preset.recipe)
    assert prediction.after.size_bytes < 0.6 * prediction.before.size_bytes
