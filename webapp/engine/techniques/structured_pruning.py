"""Structured pruning: channels, neurons and attention heads are cut out of the shapes, with all that goes along."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from webapp.engine.architectures.reshape import ShapeChange
from webapp.engine.facts import CheckpointFacts, Group, LayerFacts
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math.importance import relative
from webapp.engine.recipe import StepSettings, TechniqueSettings, setting
from webapp.engine.techniques.surgery.groups import cut_shapes
from webapp.engine.techniques.surgery.surgery import FROM_DATA, Surgery, has_batch_norm, recalibrate_batch_norm
from webapp.engine.techniques.surgery.transformers_blocks import ATTENTION
from webapp.engine.weights import DensePlan, StoragePlan
from webapp.engine.weights.model import Model
from webapp.units import percent

from .base import LEFT, AtWork, Context, CutOffer, Need, Outcome, Skip, Technique, calibration_samples, missed
from .surgery import ENDS, check_fits, narrower, structure_of, with_structure

CUTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75)  # ratios that a budget may choose
IN_ALL_BLOCKS = (0.1, 0.2, 0.35, 0.5)  # the same, of what a config has once: each is tried in every block
LEAST_KEPT = 0.1  # of a group, when channels of all groups compete
BLIND = "calibration does not follow these channels, so their weights alone decided"
UNEVEN = f"each keeps {percent(LEAST_KEPT, 0)} and a multiple of what is set"


class StructuredPruning(Technique):
    name = "structured_pruning"
    title = "Structured pruning"
    family = "Pruning"
    summary = (
        "Cuts whole channels, neurons or attention heads out of the shapes, so that every runtime is faster too; "
        "costs more accuracy per weight than single weights do, and much less of it with calibration data."
    )
    paper = "https://arxiv.org/abs/2301.12900"
    needs = frozenset({"architecture", "calibration"})
    layers = frozenset({"linear", "conv", "experts"})
    covariances = 8.0
    counts_zeros = False  # those in the channels that leave

    class Settings(TechniqueSettings):
        ratio: float = setting(
            0.2,
            "Channels removed",
            "The share of channels (neurons, heads) that leaves each group, rounded as below. It is the same for all "
            "layers that make the same channels.",
            widget="slider",
            step=0.01,
            per_layer=True,
            gt=0.0,
            le=0.9,
        )
        cut: Literal["neurons", "heads", "both"] = setting(
            "neurons",
            "Removed units",
            "neurons: channels of convolutions and neurons between layers. heads: attention heads, key-value groups "
            "with their query heads. both: each by the ratio.",
        )
        importance: Literal["l1", "l2", "batch_norm", "taylor", "activation", "reconstruction"] = setting(
            "l2",
            "Importance",
            "l1, l2: norms of the weights. batch_norm: its scale. With calibration data: taylor (loss by gradients), "
            "activation (the channel's activations times the weights that read them), reconstruction (the output error "
            "that is left after the other channels compensate: usually the best).",
        )
        scope: Literal["uniform", "global"] = setting(
            "uniform",
            "Scope",
            "uniform: every group loses its share. global: the least important channels go, of all groups with the "
            "same share (not in transformers' models, whose config has one width for all blocks).",
        )
        round_to: int = setting(
            8,
            "Round to a multiple of",
            "Of the channels that stay; kernels like 8. Heads are whole.",
            unit="channels",
            per_layer=True,
            ge=1,
            le=1024,
        )
        samples: int = calibration_samples()

    def needs_for(self, settings: Any) -> frozenset[Need]:
        calibration: Need = "calibration" if settings.importance in FROM_DATA else "calibration_if_any"
        return frozenset({"architecture", calibration})

    def refuses(self, plan: StoragePlan) -> str | None:
        if not isinstance(plan, DensePlan):
            return f"it is stored as {plan.label} by then; put structured_pruning before that step"
        return None

    def working_bytes(self, at: AtWork) -> int:
        """By gradients, one pass forward and backward through the whole model."""
        found, samples = super().working_bytes(at), at.calibrating
        if at.settings.own.importance == "taylor" and samples is not None:
            found += 2 * at.model.whole + at.model.backward(samples)
        return found

    def exact(self, settings: Any) -> bool:
        return bool(settings.scope == "uniform")

    def plan(self, layer: LayerFacts, plan: StoragePlan, settings: Any) -> StoragePlan:
        return plan

    def reshape(self, facts: CheckpointFacts, layers: Sequence[LayerFacts], settings: StepSettings) -> ShapeChange:
        asked = self.chosen(facts, layers, settings)
        return narrower(facts, {group: kept_of(group, own) for group, own in asked.items()})

    def cuts(self, facts: CheckpointFacts) -> Iterator[CutOffer]:
        """Of each group for itself; of those that a config has one width for, of all of them alike."""
        structure, names = facts.structure, {layer.weight: layer.name for layer in facts.layers}
        groups = structure.groups if structure is not None else ()
        together: dict[str, list[Group]] = {}
        for number, group in enumerate(groups):
            together.setdefault(group.key or str(number), []).append(group)
        for key, bound in together.items():
            first = bound[0]
            if not all(group.adjusted and group.makers <= names.keys() for group in bound):
                continue
            unit, common = f"{first.kind} of {names[min(first.makers)]}", {"importance": "reconstruction"}
            if first.key:
                alone = {group.key for group in groups if group.kind == first.kind} == {key}
                unit = f"{first.kind} of all blocks" + ("" if alone else f" ({key})")
                common["cut"] = "both"
            before = {first.width}
            for ratio in IN_ALL_BLOCKS if first.key else CUTS:
                given = {"ratio": ratio, **common}
                settings = self.Settings.model_validate(given)
                kept = kept_of(first, settings)
                if kept not in before:
                    before.add(kept)
                    label = f"{percent(1 - kept / first.width, 0)} removed"
                    yield CutOffer(unit, label, given, {group: kept_of(group, settings) for group in bound})

    def chosen(self, facts: CheckpointFacts, layers: Sequence[LayerFacts], settings: StepSettings) -> dict[Group, Any]:
        """The groups whose makers are all among the layers, with the settings of these.

        Raises Skip where that leaves nothing to cut, and where settings differ that have to be the same.
        """
        weights, step = {layer.weight: layer for layer in layers}, settings.own
        kinds = {"neurons": ("channels", "neurons"), "heads": ("heads",)}.get(step.cut)
        every = [group for group in structure_of(facts).groups if kinds is None or group.kind in kinds]
        found = {
            group: _alike([weights[maker] for maker in sorted(group.makers)], settings, f"make the same {group.kind}")
            for group in every
            if group.makers <= weights.keys()
        }
        if not found:
            what = "neurons or heads" if step.cut == "both" else step.cut
            told = ((la.name, structure_of(facts).why_not(la.weight)) for la in layers if not every)
            because = next((f"; of {name}: {why}" for name, why in told if why), "")
            raise Skip(
                f"none of the chosen layers makes {what} that can be cut ({len(every)} in the model can){because}"
            )
        if facts.architecture is not None and facts.architecture.family == "transformers":
            if step.scope == "global":
                raise Skip("the config of a transformers' model has one width for all blocks; choose scope uniform")
            for key, kind in {group.key: group.kind for group in found}.items():
                if sum(g.key == key for g in found) < sum(g.key == key for g in every):
                    raise Skip(f"every block must keep as many {kind}; choose the layers of all blocks, or exclude all")
                makers = [weights[maker] for group in found if group.key == key for maker in sorted(group.makers)]
                _alike(makers, settings, f"keep as many {kind}, as every block must")
        if all(kept_of(group, own) == group.width for group, own in found.items()):
            raise Skip("nothing can leave: " + "; ".join(dict.fromkeys(_rounding(*each) for each in found.items())))
        return found

    def apply(self, model: Model, settings: StepSettings, context: Context) -> list[Outcome]:
        assert context.facts is not None
        facts, own = with_structure(context.facts), settings.own
        asked = self.chosen(facts, context.layers, settings)
        data = context.calibration(own.samples) if context.data is not None else []
        surgery = Surgery(model, facts, list(asked), own.importance, data, context.report)
        counts = {group: kept_of(group, each) for group, each in asked.items()}
        if own.scope == "global":
            scores = surgery.scores()
            for pool in {each.ratio for each in asked.values()}:
                counts |= shared_out({group: scores[group] for group in asked if asked[group].ratio == pool}, asked)
        change = narrower(facts, counts)
        check_fits(facts, change)
        surgery.cut(counts)
        model.architecture = change.architecture
        notes = []
        if has_batch_norm(model):
            fresh = recalibrate_batch_norm(model, data) if data else 0
            notes.append(f"{fresh} batch norms recalibrated" if fresh else "batch norms kept: no calibration data")
        notes += [] if data else ["the layers that read them were not adjusted: no calibration data"]
        return _outcomes(facts, context.layers, settings, asked, counts, "; ".join(notes))

    def untouched(self, facts: CheckpointFacts, layers: Sequence[LayerFacts], settings: StepSettings) -> dict[str, str]:
        asked = self.chosen(facts, layers, settings)
        counts = {group: kept_of(group, own) for group, own in asked.items()}
        return {
            row.layer: row.note for row in _outcomes(facts, layers, settings, asked, counts, "") if row.done == LEFT
        }


def _alike(layers: Sequence[LayerFacts], settings: StepSettings, why: str) -> Any:
    """The settings that all of these layers have. Raises Skip where they differ."""
    first = settings.of(layers[0])
    for layer in layers:
        if settings.of(layer) != first:
            raise Skip(f"{layers[0].name} and {layer.name} {why}, so an override has to match both")
    return first


def kind_of(facts: CheckpointFacts, layer: LayerFacts) -> str:
    """Which of the choices of `cut` a layer is for."""
    spec = facts.architecture
    heads = spec is not None and spec.family == "transformers" and ATTENTION.search(layer.name)
    return "heads" if heads else "neurons"


def kept_of(group: Group, settings: Any) -> int:
    """How many stay: rounded to the multiple, at least one of it; all, where the group is no wider than that.

    Where only some numbers may stay, the nearest of them.
    """
    multiple, width = multiple_of(group, settings), group.width // group.times
    wanted = (1 - settings.ratio) * width
    if group.counts is not None:
        return min((*group.counts, group.width), key=lambda count: abs(count - wanted))
    return group.times * int(min(width, max(multiple, round(wanted / multiple) * multiple)))


def multiple_of(group: Group, settings: Any) -> int:
    """Of which number's multiples a group keeps."""
    if group.kind == "heads":
        return 1
    return math.lcm(settings.round_to, group.multiple)


def shared_out(scores: Mapping[Group, Tensor], asked: Mapping[Group, Any]) -> dict[Group, int]:
    """How many stay of each group when the least important of all go, by scores over their group's mean.

    All are asked for the same ratio.
    """
    total, ratio = sum(group.width for group in scores), asked[next(iter(scores))].ratio
    values = torch.cat([relative(own.double()) for own in scores.values()])
    threshold = values.kthvalue(max(1, min(round(ratio * total), total))).values
    counts = {}
    for group, own in scores.items():
        multiple = multiple_of(group, asked[group])
        stays = max(int((relative(own.double()) > threshold).sum()), math.ceil(LEAST_KEPT * group.width))
        counts[group] = min(group.width, max(multiple, round(stays / multiple) * multiple))
    return counts


def _outcomes(
    facts: CheckpointFacts,
    layers: Sequence[LayerFacts],
    settings: StepSettings,
    asked: Mapping[Group, Any],
    counts: Mapping[Group, int],
    note: str,
) -> list[Outcome]:
    """A row for each chosen layer: what it makes fewer of, what it reads fewer of, or why it stays as it is."""
    shapes = {tensor.name: tensor.shape for tensor in facts.tensors}
    smaller = {tensor for group, kept in counts.items() if kept < group.width for tensor in group.widths}
    narrower = cut_shapes(shapes, counts.items())
    pools = {
        own.ratio: {group: counts[group] for group in asked if asked[group].ratio == own.ratio}
        for own in asked.values()
    }
    found = []
    for layer in layers:
        if layer.weight in smaller:
            of = {group: kept for group, kept in counts.items() if layer.weight in group.widths}
            own = asked[next(iter(of))]
            found.append(_cut(layer, of, own, _short_of_all(own, pools[own.ratio]), note))
            continue
        row = _untouched(facts, layer, settings.of(layer), counts)
        shape = narrower.get(layer.weight, layer.shape)
        found.append(row if shape == layer.shape else _narrowed(layer, shape, row))
    return found


def _narrowed(layer: LayerFacts, shape: tuple[int, ...], row: Outcome) -> Outcome:
    """The row of a layer that has lost inputs only: enough where its outputs are nobody's channels."""
    axis = next(axis for axis, size in enumerate(shape) if size != layer.shape[axis])
    done = f"{shape[axis]} of {layer.shape[axis]} inputs stay"
    if row.ok or row.note in ENDS:
        return Outcome(layer.name, "as its inputs are cut", done)
    return replace(row, done=f"all its outputs stay; {done}", skipped=False)


def _cut(layer: LayerFacts, counts: Mapping[Group, int], settings: Any, short: str, note: str) -> Outcome:
    width, kept = sum(group.width for group in counts), sum(counts.values())
    kind = next(iter(counts)).kind
    done = f"{kept} of {width} {kind} stay ({percent(1 - kept / width)} removed)"
    if settings.scope == "uniform" and missed(settings.ratio, 1 - kept / width):
        short = "; ".join(dict.fromkeys(_rounding(group, settings) for group in counts))
    blind = settings.importance in FROM_DATA and not all(group.adjusted for group in counts)
    told = "; ".join(filter(None, (short, BLIND if blind else "", note)))
    return Outcome(layer.name, _asked(settings, width, kind), done, ok=not short and not blind, note=told)


def _untouched(facts: CheckpointFacts, layer: LayerFacts, settings: Any, counts: Mapping[Group, int]) -> Outcome:
    if settings.cut != "both" and kind_of(facts, layer) != settings.cut:
        return Outcome.not_asked(layer.name, f"it makes no {settings.cut}")
    structure = structure_of(facts)
    groups = [group for group in structure.groups if layer.weight in group.widths]
    if not groups:
        why = structure.why_not(layer.weight) or "what else its channels run through is not known"
        kind = "channels" if layer.kind == "conv" else kind_of(facts, layer)
        return Outcome.left(layer.name, f"{percent(settings.ratio, 0)} of its {kind}", why)
    width, kind = sum(group.width for group in groups), groups[0].kind
    asked = _asked(settings, width, kind)
    if missing := sorted(frozenset().union(*(group.makers for group in groups if group not in counts))):
        return Outcome.left(layer.name, asked, f"the same {kind} are made by {', '.join(missing[:3])}, not all chosen")
    if settings.scope == "global":
        return Outcome(layer.name, asked, f"all {width} stay", note=f"those of other layers matter less, or {UNEVEN}")
    return Outcome.left(layer.name, asked, "; ".join(dict.fromkeys(_rounding(group, settings) for group in groups)))


def _asked(settings: Any, width: int, kind: str) -> str:
    if settings.scope == "global":
        return f"{percent(settings.ratio, 0)} of the channels of all groups"
    return f"{percent(settings.ratio, 0)} of {width} {kind}"


def _rounding(group: Group, settings: Any) -> str:
    """Why another number of a group's channels stays than the ratio asks for."""
    wanted, kept = (1 - settings.ratio) * group.width, kept_of(group, settings)
    multiple = multiple_of(group, settings) * group.times
    if group.kind == "heads":
        if group.width == 1:
            return "all queries share one head of keys and values (multi-query), which has to stay"
        some = group.counts is not None and len(group.counts) < group.width - 1
        return f"heads are whole, and {kept} is the number {'that the config takes ' * some}nearest to {wanted:.3g}"
    if kept == group.width < multiple or wanted < kept == multiple:
        return f"{multiple} is the least multiple that may stay, and there are {group.width}"
    return f"{kept} is the multiple of {multiple} nearest to {wanted:.4g}"


def _short_of_all(settings: Any, counts: Mapping[Group, int]) -> str:
    """Why all groups together lose another share than was asked, where they compete; else ""."""
    removed = 1 - sum(counts.values()) / sum(group.width for group in counts)
    if settings.scope == "uniform" or not missed(settings.ratio, removed):
        return ""
    return f"all groups together lost {percent(removed)}: {UNEVEN}"
