"""Of every technique: an override gives its layers what a step of their own would give them, and is predicted so."""

import pytest
import torch
from torch import nn

from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict
from webapp.engine.techniques import techniques
from webapp.engine.techniques.surgery import with_structure
from webapp.engine.weights.artifact import write_model

KNOWN = techniques()
OTHER = {
    "act_order": (False, {"bits": 2}),
    "bits": (3, {}),
    "bias_correction": (False, {}),
    "compensation_rank": (2, {"bits": 3}),
    "by": ("rank", {"rank": 3}),
    "convolutions": ("spatial", {}),
    "damping": (0.7, {"bits": 2}),
    "dtype": ("bfloat16", {}),
    "energy": (0.5, {}),
    "form": ("factors", {}),
    "granularity": ("group", {"group_size": 8, "bits": 3}),
    "group_size": (8, {}),
    "method": ("percentile", {"percentile": 95.0}),
    "most_change": (1e-9, {}),
    "numbers": ("normal", {"bits": 3}),
    "pattern": ("2:4", {}),
    "percentile": (91.0, {}),
    "ranges": ("tensor", {}),
    "rank": (2, {}),
    "ratio": (0.3, {"round_to": 1}),
    "refine": (0, {"bits": 2}),
    "round_to": (1, {}),
    "rounds": (0, {}),
    "scale": ("range", {"bits": 3}),
    "sparsity": (0.8, {}),
    "symmetric": (False, {"bits": 3}),
}
ELSEWHERE = {
    ("gptq", "tied"),  # of a table that is the head too: test_gptq_of_tied_tables.py
    ("ggml_quantization", "type"),  # of rows that are whole blocks, which these are not: test_ggml_quantization.py
    ("ggml_quantization", "pure"),
}
CASES = [
    (name, key) for name, each in KNOWN.items() for key in each.Settings.per_layer() if (name, key) not in ELSEWHERE
]
# AWQ scales across layers, a step does not see how the one before rounds inputs or what it lost, and cutting adjusts
# the layers after:
ALONE = ("awq", "gptq", "sparsegpt", "static_quantization", "structured_pruning")  # their layer is compared alone


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 16))


@pytest.fixture
def checkpoint(inspected, network):
    return inspected(network, "network")


def held(model, outcomes, layer):
    """All that a step left of a layer."""
    encoded, bias = (model.weights[f"{layer}.{each}"] for each in ("weight", "bias"))
    (told,) = (outcome for outcome in outcomes if outcome.layer == layer)
    return encoded.plan, encoded.decode().tolist(), bias.decode().tolist(), model.activations.get(layer), told


def another(name, key):
    """What to override the setting with, and what the step itself has beside it, so that it makes a difference."""
    other, beside = OTHER[key]
    fields = KNOWN[name].Settings.model_fields
    shown = (fields[key].json_schema_extra or {}).get("show_when", {})
    beside = {setting: value for setting, value in beside.items() if setting in fields} | shown
    return ("channel" if other == fields[key].default else other), beside


@pytest.mark.parametrize(("name", "key"), CASES)
def test_an_override_is_what_an_own_step_would_be(checkpoint, apply_steps, given_batches, tmp_path, name, key):
    data, (other, settings) = given_batches(checkpoint[1].architecture), another(name, key)
    # the last one: what a step of its own calibrates on is the same; or the last whose outputs can be cut
    layer = "0" if key == "convolutions" else "3" if name == "structured_pruning" else "5"
    every, overrides = {"include": [layer] if name in ALONE else ["*"]}, {layer: {key: other}}
    overridden = apply_steps(checkpoint, (name, settings, every, overrides), data=data)
    without = apply_steps(checkpoint, (name, settings, every), data=data)
    assert held(*overridden, layer) != held(*without, layer)

    asked = (KNOWN[name].Settings.model_validate(each) for each in (settings, settings | {key: other}))
    assert len({KNOWN[name].needs_for(each) for each in asked}) == 1, "what a step needs is decided by its own settings"

    own = (name, settings | {key: other}, {"include": [layer]})
    others = [] if name in ALONE else [(name, settings, {"exclude": [layer]})]
    apart = apply_steps(checkpoint, *others, own, data=data)
    assert held(*overridden, layer) == held(*apart, layer)
    left, right = overridden[0].weights, apart[0].weights
    assert all(torch.equal(left[each].decode(), right[each].decode()) for each in left)

    step = {"technique": name, "settings": settings, "layers": every, "overrides": overrides}
    told = predict(with_structure(checkpoint[1]), Recipe.read({"steps": [step]}))
    size = write_model(overridden[0], tmp_path / "model.safetensors")
    if told.exact:
        assert size == told.after.size_bytes
    elif not told.steps[0].skipped:  # whose form is not known beforehand
        assert size == pytest.approx(told.after.size_bytes, rel=0.1)


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("magnitude_pruning", {"scope": "global", "sparsity": 0.6}, "sparsity"),
        ("wanda", {"allocation": "sensitivity", "sparsity": 0.6}, "sparsity"),
        ("sparsegpt", {"allocation": "sensitivity", "sparsity": 0.6}, "sparsity"),
        ("low_rank", {"allocation": "global", "ratio": 0.6, "method": "whitened"}, "ratio"),
    ],
)
def test_layers_share_what_they_are_asked_for_with_those_that_are_asked_for_the_same(
    checkpoint, apply_steps, given_batches, name, settings, key
):
    step = (name, settings, {}, {"5": {key: 0.3}})
    model, outcomes = apply_steps(checkpoint, step, data=given_batches(checkpoint[1].architecture))

    def share(*layers):
        """Of the weights of these layers together: that are zero, or that factors hold."""
        held = [model.weights[f"{layer}.weight"] for layer in layers]
        counted = sum(each.plan.params if key == "ratio" else each.plan.params - each.plan.nonzero for each in held)
        return counted / sum(each.decode().numel() for each in held)

    near = 0.07 if key == "ratio" else 0.003  # ranks are whole
    assert share("5") == pytest.approx(0.3, abs=near)
    assert share("0", "3") == pytest.approx(0.6, abs=near)
    assert [outcome.asked[:2] for outcome in outcomes] == ["60", "60", "30"]
