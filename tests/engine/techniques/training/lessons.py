"""A small task to train on, and one step of a technique that trains, as the stage calls it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from webapp.engine.architectures.reshape import describe_model
from webapp.engine.data.datasets import Arrays
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe, StepSettings
from webapp.engine.run.predict import prepare
from webapp.engine.techniques import Context, techniques
from webapp.engine.techniques.calibration import TechniqueData
from webapp.engine.weights.model import Model


class Told(Silent):
    """Keeps what was reported."""

    def __init__(self) -> None:
        self.points: list[tuple[str, float, dict[str, float]]] = []
        self.messages: list[str] = []
        self.lines: list[str] = []

    def progress(self, fraction, message=""):
        self.messages.append(message)

    def log(self, message):
        self.lines.append(message)

    def point(self, series, x, values):
        self.points.append((series, x, values))


def blobs(n: int = 200, features: int = 64, classes: int = 10, seed: int = 0, shape=None) -> Arrays:
    """Points around as many centres as there are classes, all of it drawn by the seed."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, features, generator=torch.Generator().manual_seed(1))
    y = torch.randint(0, classes, (n,), generator=generator)
    x = centres[y] + 0.5 * torch.randn(n, features, generator=generator)
    return Arrays(x.reshape(n, *shape) if shape else x, y)


def after(folder, facts, *steps) -> Model:
    """The model after steps that need no data: ("magnitude_pruning", {"sparsity": 0.5}), ..."""
    model = Model.of_checkpoint(folder, facts)
    if steps:
        recipe = Recipe.read({"steps": [{"technique": name, "settings": values} for name, values in steps]})
        for step in prepare(facts, recipe):
            step.technique.apply(model, step.settings, Context(step.layers, 0, Silent()))
    return model


def trained(
    name: str,
    model: Model,
    facts,
    half,
    *,
    teacher: Model | None = None,
    tokenizer=None,
    scratch: Path | None = None,
    report=None,
    seed: int = 0,
    only: str = "",
    **settings,
):
    """Trains `model` in place and returns what the technique says of it. `only`: a part of the layers' names."""
    technique = techniques()[name]
    layers = [layer for layer in describe_model(model, facts).units() if only in layer.name]
    assert not any(technique.refuses(model.weights[layer.weight].plan) for layer in layers)
    data = TechniqueData(half, model.architecture, tokenizer)
    settings = {"precision": "float32", "batch_size": 16} | settings
    context = Context(layers, seed, report or Silent(), data, scratch, (lambda: teacher) if teacher else None)
    with one_thread():
        outcome, *_ = technique.apply(model, StepSettings(technique.Settings(**settings)), context)
    return outcome


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, and much slower where those wait for a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def values(model: Model) -> dict[str, torch.Tensor]:
    return {name: encoded.decode().clone() for name, encoded in model.weights.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)
