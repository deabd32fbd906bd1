"""Structured pruning: channels, neurons and attention heads are cut out of the shapes, with all that goes along."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..channels import Group, cut_shapes, groups_of, narrowed
from ..channels.cutting import has_batch_norm, recalibrate_batch_norm
from ..channels.surgery import FROM_DATA, Surgery
from ..channels.transformers_blocks import fits
from ..facts import CheckpointFacts, LayerFacts
from ..math.importance import relative
from ..model import Model
from ..plans import DensePlan, Plan
from .base import Context, Need, Outcome, Reshaped, Skip, Technique, setting
from .base import Settings as BaseSettings

LEAST_KEPT = 0.1  # of a group, when channels of all groups compete


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
    layers = frozenset({"linear", "conv"})

    class Settings(BaseSettings):
        ratio: float = setting(
            0.2,
            "Channels removed",
            "The share of channels (neurons, heads) that leaves each group, rounded as below.",
            widget="slider",
            step=0.01,
            gt=0.0,
            le=0.9,
        )
        cut: Literal["neurons", "heads", "both"] = setting(
            "neurons",
            "Removed units",
            "neurons: channels of convolutions and neurons between layers. heads: attention heads, key-value groups "
            "with their query heads. both: each by the ratio.",
            widget="choice",
        )
        importance: Literal["l1", "l2", "batch_norm", "taylor", "activation", "reconstruction"] = setting(
            "l2",
            "Importance",
            "l1, l2: norms of the weights. batch_norm: its scale. With calibration data: taylor (loss by gradients), "
            "activation (the channel's activations times the weights that read them), reconstruction (the output error "
            "that is left after the other channels compensate: usually the best).",
            widget="choice",
        )
        scope: Literal["uniform", "global"] = setting(
            "uniform",
            "Scope",
            "uniform: every group loses the same share. global: the least important channels of all groups go "
            "(not in transformers' models, whose config has one width for all blocks).",
            widget="choice",
        )
        round_to: int = setting(
            8,
            "Round to a multiple of",
            "Of the channels that stay; kernels like 8. Heads are whole.",
            unit="channels",
            ge=1,
            le=1024,
        )
        samples: int = setting(
            0, "Calibration samples", "0: as many as suit the task.", unit="samples", ge=0, le=100_000
        )

    def needs_for(self, settings: Any) -> frozenset[Need]:
        calibration: Need = "calibration" if settings.importance in FROM_DATA else "calibration_if_any"
        return frozenset({"architecture", calibration})

    def refuses(self, plan: Plan) -> str | None:
        if not isinstance(plan, DensePlan):
            return f"it is stored as {plan.label} by then; put structured_pruning before that step"
        return None

    def exact(self, settings: Any) -> bool:
        return bool(settings.scope == "uniform")

    def plan(self, layer: LayerFacts, plan: Plan, settings: Any) -> Plan:
        return plan

    def reshape(self, facts: CheckpointFacts, layers: Sequence[LayerFacts], settings: Any) -> Reshaped:
        groups = self.chosen(facts, layers, settings)
        kept = {group: kept_of(group, settings) for group in groups}
        return self._reshaped(facts, kept)

    def chosen(self, facts: CheckpointFacts, layers: Sequence[LayerFacts], settings: Any) -> list[Group]:
        """The groups whose makers are all among the layers. Raises Skip where that leaves nothing to cut."""
        weights = {layer.weight for layer in layers}
        kinds = {"neurons": ("channels", "neurons"), "heads": ("heads",)}.get(settings.cut)
        every = [group for group in groups_of(facts) if kinds is None or group.kind in kinds]
        found = [group for group in every if group.makers <= weights]
        if not found:
            raise Skip(
                f"none of the chosen layers makes {settings.cut} that can be cut ({len(every)} in the model can)"
            )
        if facts.architecture is not None and facts.architecture.family == "transformers":
            if settings.scope == "global":
                raise Skip("the config of a transformers' model has one width for all blocks; choose scope uniform")
            for kind in {group.kind for group in found}:
                if sum(g.kind == kind for g in found) < sum(g.kind == kind for g in every):
                    raise Skip(f"every block must keep as many {kind}; choose the layers of all blocks, or exclude all")
        if all(kept_of(group, settings) == group.width for group in found):
            raise Skip(f"no group is wide enough to lose a multiple of {settings.round_to}")
        return found

    def _reshaped(self, facts: CheckpointFacts, kept: dict[Group, int]) -> Reshaped:
        shapes = cut_shapes({tensor.name: tensor.shape for tensor in facts.tensors}, kept.items())
        spec = facts.architecture
        assert spec is not None
        if spec.family == "transformers":
            for kind, (group, count) in {group.kind: (group, n) for group, n in kept.items()}.items():
                spec = narrowed(spec, kind, count, group.width)
            if not fits(spec, {tensor.name: tensor.shape for tensor in facts.tensors} | shapes):
                raise Skip(f"the config of {spec.title} cannot say so many {'/'.join({g.kind for g in kept})}")
        return Reshaped(spec, shapes, {}, frozenset())

    def apply(self, model: Model, settings: Any, context: Context) -> list[Outcome]:
        assert context.facts is not None
        facts = context.facts
        groups = self.chosen(facts, context.layers, settings)
        data = context.calibration(settings.samples) if context.data is not None else []
        surgery = Surgery(model, facts, groups, settings.importance, data, context.report)
        counts = {group: kept_of(group, settings) for group in groups}
        if settings.scope == "global":
            counts = shared_out(surgery.scores(), settings)
        reshaped = self._reshaped(facts, counts)
        surgery.cut(counts)
        model.architecture = reshaped.architecture
        notes = []
        if has_batch_norm(model):
            fresh = recalibrate_batch_norm(model, data) if data else 0
            notes.append(f"{fresh} batch norms recalibrated" if fresh else "batch norms kept: no calibration data")
        notes += [] if data else ["the layers that read them were not adjusted: no calibration data"]
        return [_outcome(group, counts[group], settings, "; ".join(notes)) for group in groups]


def kept_of(group: Group, settings: Any) -> int:
    """How many stay: rounded to the multiple, at least one of it; all, where the group is no wider than that."""
    multiple = 1 if group.kind == "heads" else settings.round_to
    wanted = (1 - settings.ratio) * group.width
    return int(min(group.width, max(multiple, round(wanted / multiple) * multiple)))


def shared_out(scores: Mapping[Group, Tensor], settings: Any) -> dict[Group, int]:
    """How many stay of each group when the least important of all go, by scores over their group's mean."""
    total = sum(group.width for group in scores)
    values = torch.cat([relative(own.double()) for own in scores.values()])
    threshold = values.kthvalue(max(1, min(round(settings.ratio * total), total))).values
    counts = {}
    for group, own in scores.items():
        multiple = 1 if group.kind == "heads" else settings.round_to
        stays = max(int((relative(own.double()) > threshold).sum()), math.ceil(LEAST_KEPT * group.width))
        counts[group] = min(group.width, max(multiple, round(stays / multiple) * multiple))
    return counts


def _outcome(group: Group, kept: int, settings: Any, note: str) -> Outcome:
    asked = f"{settings.ratio:.0%} of {group.width} {group.kind}"
    if settings.scope == "global":
        asked = f"{settings.ratio:.0%} of the channels of all groups"
    done = f"{kept} of {group.width} {group.kind} stay ({1 - kept / group.width:.1%} removed)"
    if kept == group.width and settings.scope == "uniform":
        short = f"{group.width} cannot lose {settings.ratio:.0%} and stay a multiple of {settings.round_to}"
        return Outcome(group.name, asked, done, ok=False, note=short)
    return Outcome(group.name, asked, done, note=note)
