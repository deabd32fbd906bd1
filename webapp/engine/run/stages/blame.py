"""What single layers cost: the delivered file is measured again with one layer at a time as it was in the original."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Self

from webapp.engine.architectures.build import build
from webapp.engine.architectures.reshape import describe_model
from webapp.engine.errors import RecipeInvalid
from webapp.engine.exporters import measured
from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import nn, torch
from webapp.engine.progress import Report
from webapp.engine.run.giving_back import followed
from webapp.engine.run.measure import evaluate_each
from webapp.engine.run.metrics import difference, summarise
from webapp.engine.run.shapes import Footprint, RunShapes
from webapp.engine.techniques.surgery import with_structure
from webapp.engine.weights.artifact import read_model
from webapp.engine.weights.memory import release_freed_memory
from webapp.engine.weights.model import Model

from .base import RunStage, SourceDigests, StageResults
from .baseline import BaselineStage
from .export import ExportStage
from .job import RunGiven, StageJob

WORST = 10  # layers that are measured where none are named
SHARE = 0.25  # of the samples that a result is measured on: there are eleven models to ask


class Pair(NamedTuple):
    """A layer of the delivered file, and the same one as the original has it: other names, where blocks left."""

    now: LayerFacts
    original: LayerFacts


class BlameStage(RunStage):
    kind = "blame"
    weight = 6.0
    title = "Give back single layers and measure"

    @classmethod
    def of_run(cls, asked: RunGiven) -> Iterable[Self]:
        """Only of a run that was asked for it."""
        return [] if asked.blame is None else [cls(asked)]

    @property
    def place(self) -> tuple[int, int]:
        return 1 + len(self.asked.recipe.steps) + len(self.asked.exports), 0

    @property
    def inputs(self) -> tuple[str, ...]:
        return BaselineStage.name_of(), ExportStage.name_of(measured().name)

    def decided_by(self, sources: SourceDigests) -> dict[str, Any]:
        return self.by_evaluation(sources) | self.by_steps(sources) | {"layers": self.asked.blame}

    def footprint(self, shapes: RunShapes) -> Footprint:
        both = shapes.original.whole + shapes.result.whole
        passes = shapes.evaluation(shapes.result, shapes.original)
        return Footprint.of(both + passes if shapes.known else None, 0)

    def run(self, job: StageJob, report: Report) -> dict[str, Any]:
        """{"metrics", "layers", "seconds"}: a row for each layer, with the differences that giving it back makes."""
        if why := job.unavailable():
            raise RecipeInvalid(f"What a layer costs cannot be measured. {why}")
        start, spec = time.perf_counter(), job.spec
        assert spec is not None
        report.progress(0.0, "Reading the delivered file")
        delivered, original = read_model(job.inputs[self.inputs[1]].folder / measured().file), job.original()
        layers = self._chosen(job, delivered, original)
        module, whole = build(delivered), build(original)
        data = job.evaluation(SHARE)
        variants = [partial(given_back, module, whole, *layer) for layer in layers]
        before, *scores = evaluate_each(module, whole, spec, data, report, variants)
        rows = []
        for layer, after in zip(layers, scores, strict=True):
            found = {
                name: difference(name, before[name], after[name], job.run.seed) for name in before if name in after
            }
            plans = original.weights[layer.original.weight].plan, delivered.weights[layer.now.weight].plan
            rows.append({"name": layer.now.name, "bytes": plans[0].bytes - plans[1].bytes, "differences": found})
            report.log(f"{layer.now.name}: given back")
        return {
            "metrics": summarise(before, job.run.seed),
            "layers": rows,
            "seconds": time.perf_counter() - start,
        }

    def receipt(self, results: StageResults) -> dict[str, Any]:
        return {"blame": dict(results.facts[self.name])}

    def _chosen(self, job: StageJob, delivered: Model, original: Model) -> list[Pair]:
        """Those that are named, or else those whose weights moved furthest. Raises RecipeInvalid."""
        facts = job.checkpoint.facts
        now = {layer.name: layer for layer in describe_model(delivered, facts).layers}
        before = {layer.name: layer for layer in facts.layers}
        called = followed(with_structure(facts), self.asked.recipe).original
        if not now.keys() <= called.keys():
            raise RecipeInvalid(
                "Blocks left that data had decided on, so that those behind them have other names: none can be given "
                "back alone."
            )
        pairs = {
            name: Pair(before[name] if called[name] == name else layer, before[called[name]])
            for name, layer in now.items()
        }
        same = {name: pair for name, pair in pairs.items() if now[name].shape == pair.original.shape}
        if self.asked.blame:
            if lost := [name for name in self.asked.blame if name not in same]:
                cut = "has another shape than in the original" if lost[0] in now else "is no layer of this file"
                raise RecipeInvalid(f"{lost[0]} {cut}, so it cannot be given back.")
            return [same[name] for name in self.asked.blame]
        moved = {name: moved_by(delivered, original, pair) for name, pair in same.items()}
        worst = sorted((name for name in moved if moved[name] > 0), key=lambda name: -moved[name])[:WORST]
        if not worst:
            raise RecipeInvalid("No layer of this file differs from the original's.")
        return [same[name] for name in worst]


def moved_by(delivered: Model, original: Model, layer: Pair) -> float:
    """The distance between both weights over the length of the original's."""
    after = delivered.weights[layer.now.weight].decode().float()
    before = original.weights[layer.original.weight].decode().float()
    distance = float(torch.linalg.vector_norm(after - before) / torch.linalg.vector_norm(before).clamp_min(1e-30))
    release_freed_memory()
    return distance


@contextmanager
def given_back(module: nn.Module, original: nn.Module, layer: LayerFacts, before: LayerFacts) -> Iterator[None]:
    """Within it, `module` has a layer of the original, which is `before` there, in the place of its own, under all of
    its names.

    With its bias, and without integers at its inputs; of a stack of experts, and of other tensors that are no
    module's `weight`, the tensor alone.
    """
    places = _places_of(layer)
    own = [getattr(module.get_submodule(path), last) for path, last in places]
    theirs = [getattr(original.get_submodule(path), last) for path, last in _places_of(before)]
    try:
        for (path, last), part in zip(places, theirs, strict=True):
            setattr(module.get_submodule(path), last, part)
        yield
    finally:
        for (path, last), part in zip(places, own, strict=True):
            setattr(module.get_submodule(path), last, part)


def _places_of(layer: LayerFacts) -> list[tuple[str, str]]:
    names = [layer.weight, *(alias + layer.weight.removeprefix(layer.name) for alias in layer.aliases)]
    return [_place_of(name) for name in names]


def _place_of(weight: str) -> tuple[str, str]:
    """The module and the name in it of what is exchanged: the layer whose `weight` it is, or else the tensor."""
    path, _, last = weight.rpartition(".")
    above, _, name = path.rpartition(".")
    return (above, name) if last == "weight" and path else (path, last)
