"""GPTQ of the table that is a language model's embedding and its head: rounded for what it is multiplied with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import nn
from webapp.engine.recipe import StepSettings
from webapp.engine.weights import StoragePlan
from webapp.engine.weights.model import Model

from .base import Context, Outcome, Skip
from .gptq import Gptq

UNTIED = "no head is tied to it, and what is only looked up needs no calibration; weight_quantization rounds it"


class GptqTied(Gptq):
    name = "gptq_tied"
    title = "GPTQ of tied embeddings"
    summary = (
        "Rounds a table of embeddings that is the model's head too so that the head's outputs change least on "
        "calibration data; a head bears rounding to nearest badly, below 6 bits above all."
    )
    layers = frozenset({"embedding"})

    def plan(self, layer: LayerFacts, plan: StoragePlan, settings: Any) -> StoragePlan:
        if not layer.aliases:
            raise Skip(UNTIED)
        return super().plan(layer, plan, settings)

    def options(self, layer: LayerFacts, plan: StoragePlan) -> Iterable[Mapping[str, Any]]:
        return self.menu(layer, plan) if layer.aliases else ()

    def apply(self, model: Model, settings: StepSettings, context: Context) -> list[Outcome]:
        heads = {layer.name: _head(model, layer) for layer in context.layers}
        asked = [head for head in heads.values() if head is not None]
        done = {}
        if asked:
            outcomes = super().apply(model, settings, replace(context, layers=asked))
            done = {head.name: outcome for head, outcome in zip(asked, outcomes, strict=True)}
        return [
            replace(done[head.name], layer=layer.name)
            if (head := heads[layer.name]) is not None
            else Outcome.left(layer.name, self.asked(layer, settings.of(layer)), UNTIED)
            for layer in context.layers
        ]


def _head(model: Model, layer: LayerFacts) -> LayerFacts | None:
    """The product with the table, as a layer: patterns match it by all names of the table. None where there is none."""
    from webapp.engine.architectures.build import skeleton_of

    names = (layer.name, *layer.aliases)
    modules = dict(skeleton_of(model).named_modules(remove_duplicate=False)) if layer.aliases else {}
    found = next((name for name in names if type(modules.get(name)) is nn.Linear), None)
    if found is None:
        return None
    others = tuple(name for name in names if name != found)
    return layer.model_copy(update={"name": found, "kind": "linear", "aliases": others})
