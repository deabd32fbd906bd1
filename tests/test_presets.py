import pytest

from webapp.engine.facts import CheckpointFacts, LayerFacts, TensorFacts
from webapp.engine.predict import predict
from webapp.presets import PRESETS


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.title)
def test_every_preset_makes_an_ordinary_checkpoint_smaller(preset):
    tensor = TensorFacts(name="a.weight", shape=(256, 256), dtype="float32")
    layer = LayerFacts(name="a", weight="a.weight", kind="linear", shape=(256, 256))
    facts = CheckpointFacts(format="safetensors", tensors=(tensor,), layers=(layer,), weights_bytes=tensor.bytes + 80)
    prediction = predict(facts, preset.recipe)
    assert prediction.after.size_bytes < 0.6 * prediction.before.size_bytes
