"""What a change of a weight is said to cost is what it is measured to cost, in the unit of the receipt."""

from contextlib import contextmanager
from functools import partial

import pytest
import torch

from tests import zoo
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import Batch, synthetic
from webapp.engine.data.tasks import for_task
from webapp.engine.profiles.sensitivity import Directions
from webapp.engine.profiles.watching import sensitivities
from webapp.engine.progress import Silent
from webapp.engine.run.measure import evaluate_each
from webapp.engine.techniques.calibration.backward import backward_parts
from webapp.engine.techniques.calibration.drawn_loss import DrawnLoss
from webapp.engine.weights.model import Model

BATCHES, PROBES = 16, 4
METRICS = {"kl_divergence": float, "cosine": lambda value: 1 - value, "relative_error": lambda value: value**2}


def known_of(model, facts, data, folder, seed=0):
    """What is known of every tensor, and by what its costs are divided."""
    loss, found = DrawnLoss(model.architecture, data, seed), {}
    for part in backward_parts(model, facts.layers, data, loss, folder, Silent()):
        for name, one in sensitivities(part, facts.units(), model.tied, seed).items():
            found[name] = found[name].joined(one) if name in found else one
    return found, loss.count


def drawn(spec, number):
    """A batch of what PROBES probes hold."""
    parts = [synthetic(spec, number * PROBES + probe).inputs for probe in range(PROBES)]
    inputs = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Batch(inputs, None, len(next(iter(inputs.values()))))


def measured(model, data, changed):
    """What each of the tensors loses that are `changed`, by name, alone."""
    module = build(model)
    state = module.state_dict()

    @contextmanager
    def moved(name):
        before = state[name].clone()
        state[name].copy_(changed[name])
        yield
        state[name].copy_(before)

    variants = [partial(moved, name) for name in changed]
    found = evaluate_each(module, build(model), model.architecture, data, Silent(), variants)[1:]
    (metric,) = found[0].keys() & METRICS
    return {name: METRICS[metric](scores[metric].value(metric)) for name, scores in zip(changed, found, strict=True)}


def given(family, task, dtype="float32"):
    folder, facts = zoo.checkpoint(family, dtype)
    model = Model.of_checkpoint(folder, facts)
    model.architecture = for_task(model.architecture, task)
    return model, facts, [drawn(model.architecture, start) for start in range(BATCHES)]


@pytest.mark.parametrize(
    ("family", "task", "dtype", "within"),
    [
        ("mlp", "classification", "float32", 1.25),
        ("mlp", "distance", "bfloat16", 1.25),
        ("cnn", "classification", "bfloat16", 1.6),
        ("cnn", "distance", "float32", 1.6),
        ("llama", None, "bfloat16", 1.8),
        ("gpt2", "embedding", "float32", 1.8),
        ("bert", None, "float32", 1.8),
    ],
)
def test_a_cost_is_the_measured_loss(family, task, dtype, within, tmp_path):
    """For each weight on its own, whatever multiplies, is looked up, or is added."""
    model, facts, data = given(family, task, dtype)
    known, count = known_of(model, facts, data, tmp_path)
    units = {unit.weight: unit for unit in facts.layers if ".1." not in unit.name}  # of alike blocks one is enough
    values = {name: model.weights[name].decode().float() for name in units}
    steps = {
        name: 0.01 * torch.randn(old.shape, generator=torch.Generator().manual_seed(1)) for name, old in values.items()
    }
    compared = 0
    for name, loss in measured(model, data, {name: values[name] + step for name, step in steps.items()}).items():
        cost = known[name].cost(units[name].layout.matrix(steps[name]), count)
        if loss > 1e-7:  # below that float32 answers say nothing
            compared += 1
            assert loss / within < cost < loss * within, name
    assert compared > 1


def test_more_than_the_exact_ones_are_summed_up_at_random():
    rows = torch.randn(4000, 1, 300, generator=torch.Generator().manual_seed(0))
    rows[..., :5] *= 10
    sketch = Directions(1, 300, seed=0)
    sketch.add(rows)
    change = torch.randn(300, 40, generator=torch.Generator().manual_seed(1))
    exact = (rows[:, 0] @ change).square().sum()
    assert (sketch.rows()[0] @ change).square().sum().item() == pytest.approx(float(exact), rel=0.1)
