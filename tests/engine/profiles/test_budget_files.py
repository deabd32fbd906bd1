"""A budget's recipe, really run: the file that is written is the one that was promised."""

import numpy as np
import pytest

from webapp.engine.profiles.budget import BudgetGoal, Solver
from webapp.engine.profiles.facts import KEPT, ProfileFacts
from webapp.engine.profiles.options import layer_options
from webapp.engine.weights.artifact import write_model


def with_drawn_losses(layer, rng):
    """Each option as dear as the bytes that it saves, more or less."""
    whole = layer.options[0].bytes

    def lost(option):
        return 0.0 if option.family == KEPT else rng.lognormal(0, 1.5) * 2.0 ** (-16 * option.bytes / whole)

    return layer.model_copy(
        update={"options": tuple(option.model_copy(update={"loss": lost(option)}) for option in layer.options)}
    )


@pytest.mark.parametrize(("family", "dtype"), [("cnn", "float32"), ("gpt2", "bfloat16")])
def test_the_file_that_is_written_is_not_above_what_was_promised(
    zoo, apply_steps, given_batches, family, dtype, tmp_path
):
    checkpoint = zoo.checkpoint(family, dtype)
    facts, rng = checkpoint[1], np.random.default_rng(0)
    layers = tuple(with_drawn_losses(layer, rng) for layer in layer_options(facts))
    solver = Solver(ProfileFacts(unit="nats", samples=8, layers=layers), facts)
    size = round(1.25 * solver.smallest())
    found = solver.solve(BudgetGoal(bytes=size))
    steps = [
        (step["technique"], step["settings"], step.get("layers", {"include": ["*"]}), step.get("overrides", {}))
        for step in found.recipe["steps"]
    ]
    model, _ = apply_steps(checkpoint, *steps, data=given_batches(facts.architecture))
    written = write_model(model, tmp_path / "model.safetensors")
    assert 0.99 * found.size_bytes <= written <= found.size_bytes <= size
