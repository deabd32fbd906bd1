"""A walk through a model's blocks that is killed goes on at the block it was at, and ends as one that was not."""

import pytest

from tests import zoo
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import prepare_step
from webapp.engine.techniques import Context
from webapp.engine.techniques.calibration import kept_blocks
from webapp.engine.weights.artifact import write_model
from webapp.engine.weights.model import Model

STEPS = {
    "gptq": {"bits": 4},
    "awq": {"bits": 4},
    "sparsegpt": {"sparsity": 0.5},
    "wanda": {"sparsity": 0.5},
    "low_rank": {"method": "whitened", "ratio": 0.5},
    "static_quantization": {},
    "ggml_quantization": {"type": "Q4_0", "pure": True},
}


class Killed(Exception):
    pass


class DiesAt(Silent):
    """A process that is killed when it has told of so many blocks."""

    def __init__(self, blocks: int) -> None:
        self.left, self.told = blocks, []

    def progress(self, fraction: float, message: str = "") -> None:
        if ": " not in message:
            return
        self.told.append(message)
        self.left -= 1
        if self.left < 0:
            raise Killed


def applied(family, name, settings, scratch, report, target):
    folder, facts = zoo.checkpoint(family, "bfloat16")
    model = Model.of_checkpoint(folder, facts)
    recipe = Recipe.read({"steps": [{"technique": name, "settings": settings}]})
    prepared = prepare_step(facts, recipe.steps[0], 0)
    data = zoo.seeded_batches(facts.architecture)
    context = Context(prepared.layers, 1, report, data, scratch, None, facts)
    outcomes = prepared.applied(model, context)
    write_model(model, target)
    return outcomes, {name: (entry.sums.tolist(), entry.counts.tolist()) for name, entry in context.importance.items()}


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize("name", STEPS)
def test_killed_twice_it_ends_the_same(name, family, tmp_path, monkeypatch):
    monkeypatch.setattr(kept_blocks, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(kept_blocks, "LARGEST_SHARE", 1e9)
    whole = DiesAt(1000)
    expected = applied(family, name, STEPS[name], None, whole, tmp_path / "expected")
    blocks = len(whole.told)
    assert blocks >= 2
    for at in (blocks - 1, 0):
        with pytest.raises(Killed):
            applied(family, name, STEPS[name], tmp_path / "scratch", DiesAt(at), tmp_path / "never")
    last = DiesAt(1000)
    found = applied(family, name, STEPS[name], tmp_path / "scratch", last, tmp_path / "found")
    assert len(last.told) < blocks
    assert found == expected
    assert (tmp_path / "found").read_bytes() == (tmp_path / "expected").read_bytes()


def test_a_quick_walk_keeps_nothing(tmp_path):
    applied("llama", "gptq", STEPS["gptq"], tmp_path / "scratch", Silent(), tmp_path / "made")
    assert not (tmp_path / "scratch").exists()
