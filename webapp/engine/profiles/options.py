"""What may be done to each layer of a checkpoint, and the bytes that it then takes: from what the techniques offer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from webapp.engine.facts import CheckpointFacts, LayerFacts
from webapp.engine.profiles.facts import KEPT, LayerOptions, Option, OptionStep
from webapp.engine.techniques import DATA_NEEDS, Need, Skip, Technique, techniques
from webapp.engine.weights import DensePlan, StoragePlan, stored_plan

MOST_STEPS = 2  # one that prunes or factors, and one that rounds what it left
VECTORS = "vectors"  # the one choice for all tensors of a dtype that are no layer's weight


@dataclass(frozen=True)
class _Made:
    """Steps for one layer, what they are called, and the form in which they leave it."""

    plan: StoragePlan
    steps: tuple[OptionStep, ...] = ()
    labels: tuple[str, ...] = ()
    family: str = KEPT

    @property
    def option(self) -> Option:
        label, plan = " + ".join(self.labels) or "as it is", self.plan
        return Option(label=label, family=self.family, steps=self.steps, bytes=plan.bytes, loss=0.0, kind=plan.kind)


def layer_options(facts: CheckpointFacts, data: bool = True) -> tuple[LayerOptions, ...]:
    """Every choice that there is for a checkpoint, without losses (0): those are found where its values are read.

    `data`: there are calibration samples. Tied tensors are one choice, and so are all vectors of a dtype.
    """
    offers = _Offers(facts, data)
    choices, vectors = [], dict[str, list[LayerFacts]]()
    for layer in facts.units():
        tensor = facts.tensor(layer.weight)
        if layer.kind == "other":
            vectors.setdefault(tensor.dtype, []).append(layer)
        else:
            choices.append(offers.choice(layer, [layer], stored_plan(tensor)))
    for dtype, layers in vectors.items():
        size = sum(layer.size for layer in layers)
        name = f"{VECTORS} of {dtype}" if len(vectors) > 1 else VECTORS
        together = LayerFacts(name=name, weight=name, kind="other", shape=(size,))
        choices.append(offers.choice(together, layers, DensePlan((size,), dtype)))
    return tuple(choices)


class _Offers:
    """What the techniques offer for the layers of a checkpoint."""

    def __init__(self, facts: CheckpointFacts, data: bool) -> None:
        self.total = sum(tensor.bytes for tensor in facts.tensors)
        self.missing: frozenset[Need] = frozenset() if data else DATA_NEEDS
        if facts.architecture is None:
            self.missing |= {"architecture"}
        able = [found for found in techniques().values() if found.family != "Training" and found.offered(facts)]
        self.able = sorted(able, key=lambda found: "calibration" not in found.needs)  # who looks at data comes first

    def choice(self, layer: LayerFacts, bound: list[LayerFacts], plan: StoragePlan) -> LayerOptions:
        chains = self._longer(layer, _Made(plan), plan.bytes / max(self.total, 1))
        found = [chain.option for chain in chains if chain.plan.bytes < plan.bytes]
        return LayerOptions(
            name=layer.name,
            layers=tuple(each.name for each in bound),
            kind=layer.kind,
            shape=() if layer.kind == "other" else layer.shape,
            params=layer.size,
            options=(_Made(plan).option, *sorted(found, key=lambda option: (-option.bytes, option.label))),
        )

    def _longer(self, layer: LayerFacts, chain: _Made, share: float) -> Iterator[_Made]:
        """What the techniques can make of what a chain leaves, in fewer bytes; of two with one result, the first."""
        if len(chain.steps) == MOST_STEPS:
            return
        made: dict[StoragePlan, Technique] = {}
        before = chain.plan.opened
        for technique in self.able:
            if layer.kind not in technique.layers or technique.refuses(before):
                continue
            for given in technique.options(layer, before, share):
                settings = technique.Settings.model_validate(dict(given))
                try:
                    plan = technique.plan(layer, before, settings)
                except Skip:
                    continue
                lacks = self.missing & technique.needs_for(settings)
                if lacks or plan.bytes >= chain.plan.bytes or made.setdefault(plan, technique) is not technique:
                    continue
                step = OptionStep(technique=technique.name, settings=dict(given))
                family = technique.family if chain.family == KEPT else chain.family
                longer = _Made(plan, (*chain.steps, step), (*chain.labels, technique.named(settings)), family)
                yield longer
                if plan.pruned or plan.factors:
                    yield from self._longer(layer, longer, share)
