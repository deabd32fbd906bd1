"""The child's task "profile": one pass forward and backward, what every option costs, and mixed recipes measured."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from webapp.engine.data.batches import Batch
from webapp.engine.errors import DatasetUnfit
from webapp.engine.facts import CheckpointFacts
from webapp.engine.lazy import torch
from webapp.engine.profiles.cut_losses import GroupLosses, group_losses, with_cut_losses
from webapp.engine.profiles.cuts import Offered, offered
from webapp.engine.profiles.facts import LayerOptions, ProfileFacts, unit_of
from webapp.engine.profiles.fit import LossFit
from webapp.engine.profiles.losses import EVERY, WHOLE, Losses, option_losses, rounding_error, with_losses
from webapp.engine.profiles.options import layer_options
from webapp.engine.profiles.sensitivity import LayerSensitivity, as_kept, from_kept
from webapp.engine.profiles.trials import bytes_at_most
from webapp.engine.profiles.watching import sensitivities
from webapp.engine.progress import ProgressPart, Report
from webapp.engine.techniques.calibration import WeightMatrix
from webapp.engine.techniques.calibration.backward import BackwardPart, backward_parts
from webapp.engine.techniques.calibration.drawn_loss import DrawnLoss
from webapp.engine.techniques.calibration.samples import TEXTS
from webapp.engine.techniques.surgery import with_structure
from webapp.engine.weights.model import Model

from .leaving_out import as_predicted, leaving_out
from .mixed_recipes import measured_mixes
from .profile_job import ProfileJob

SAMPLES = {"causal-lm": 4} | dict.fromkeys(TEXTS, 64)  # chunks of text, or texts, that the pass sees
IMAGES = 256
PASSES = 0.4  # of the time that a part of the model takes
MIXED = 4  # every how many batches of text mixed recipes are measured on one; of the rest on all
JUDGED = 0.05  # the share of the samples which judge runs that tell what to expect of one


@dataclass
class PartLosses:
    """What was found in a part of the model, as the scratch folder keeps it: by the names of layers."""

    losses: dict[str, Losses] = field(default_factory=dict)
    most: dict[str, list[int]] = field(default_factory=dict)  # the bytes that options may take
    noise: dict[str, float] = field(default_factory=dict)  # what a rounding error costs that is the same for all
    like: dict[str, Losses] = field(default_factory=dict)  # of a block in which all was tried, by names within blocks
    cuts: GroupLosses = field(default_factory=dict)
    count: float = 1.0  # of the drawn loss, known once its last part is through

    def learn(self, more: PartLosses) -> None:
        self.losses |= more.losses
        self.most |= more.most
        self.noise |= more.noise
        self.like |= more.like
        for unit, losses in more.cuts.items():
            self.cuts.setdefault(unit, []).extend(losses)
        self.count = more.count


def profiled(job: ProfileJob, report: Report) -> ProfileFacts:
    """Raises DatasetUnfit where there is no architecture, or no sample that techniques may see."""
    begun, spec, given = time.process_time(), job.spec, job.technique_data()
    facts = with_structure(job.checkpoint.facts)
    if spec is None or given is None:
        raise DatasetUnfit(job.unavailable() or "The dataset has no training split, and a profile looks at no other.")
    model = job.original()
    model.weights.open_blocks()
    model.architecture = spec
    task = spec.task or ""
    data = _tried_and_held_back(given.calibration(SAMPLES.get(task, IMAGES)))
    choices, offers = layer_options(facts), offered(facts)
    folder = job.scratch or job.output
    folder.mkdir(parents=True, exist_ok=True)
    found = _Profiling(model, facts, choices, offers, data, job.run.seed, folder).run(ProgressPart(report, 0.0, 0.7))
    layers = with_losses(choices, found.losses, found.most)
    tokens = sum(batch.inputs["input_ids"].numel() for batch in data if "input_ids" in batch.inputs)
    profile = ProfileFacts(
        unit=unit_of(spec),
        task=spec.task,
        samples=sum(batch.n for batch in data),
        tokens=tokens or None,
        layers=layers,
        cuts=with_cut_losses(facts, offers, found.cuts),
    )
    leaving = leaving_out(model, facts, offers, data, profile.unit, ProgressPart(report, 0.7, 0.75))
    mixed = data[::MIXED] if tokens else data
    judging = job.evaluation(JUDGED) if job.dataset is not None else ()
    middle = leaving[len(leaving) // 2] if leaving else None
    measured, lost = measured_mixes(
        model, facts, profile, mixed, judging, found.noise, ProgressPart(report, 0.75, 1.0), middle
    )
    profile = profile.model_copy(update={"measured": tuple(measured)})
    if middle is not None and lost is not None:
        leaving = as_predicted(leaving, lost / middle.loss if middle.loss > 0 else 1.0, LossFit.of(profile))
    cuts = (*profile.cuts, *leaving)
    return profile.model_copy(update={"cuts": cuts, "seconds": time.process_time() - begun})


def _tried_and_held_back(data: list[Batch]) -> list[Batch]:
    """At least two batches, for what fits the samples of one is priced by the other. Raises DatasetUnfit."""
    if len(data) > 1:
        return data
    count = sum(batch.n for batch in data)
    if count < 2:
        raise DatasetUnfit(
            "A profile tries on some samples what it prices on others, and the training split has "
            f"{'only one' if count else 'none'}; use a larger dataset, or a longer text."
        )
    return [data[0].part(0, count // 2), data[0].part(count // 2, count)]


class _Profiling:
    """The losses, part by part of the model, from the last back to the first."""

    def __init__(
        self,
        model: Model,
        facts: CheckpointFacts,
        choices: Sequence[LayerOptions],
        offers: Sequence[Offered],
        data: Sequence[Batch],
        seed: int,
        folder: Path,
    ) -> None:
        assert model.architecture is not None
        self.model, self.units, self.seed, self.data, self.folder = model, facts.units(), seed, data, folder
        self.options = {name: choice.options for choice in choices for name in choice.layers}
        self.offers = offers
        self.loss = DrawnLoss(model.architecture, data, seed)
        self.carried: dict[str, dict[int, LayerSensitivity]] = {}  # by tensor and part

    def run(self, report: Report) -> PartLosses:
        layers = [unit for unit in self.units if unit.kind != "other"]
        found = self._kept()
        for part in backward_parts(self.model, layers, self.data, self.loss, self.folder, ProgressPart(report, 0, 0.3)):
            span = (0.3 + 0.7 * (part.number + end) / part.total for end in (0, 1))
            here = self._part(part, found, ProgressPart(report, *span))
            found.learn(here)
            carried = {name: as_kept(by[part.number]) for name, by in self.carried.items() if part.number in by}
            _write_carried(self.folder / f"part-{part.number}.pt", carried)
            _write(self.folder / f"part-{part.number}.json", vars(here))
        return found

    def _kept(self) -> PartLosses:
        """What the parts that are done left."""
        found, number = PartLosses(), 0
        while (path := self.folder / f"part-{number}.json").exists():
            kept: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
            found.learn(PartLosses(**kept))
            carried = torch.load(path.with_suffix(".pt"), weights_only=True)
            for name, own in carried.items():
                self.carried.setdefault(name, {})[number] = from_kept(own)
            number += 1
        return found

    def _part(self, part: BackwardPart, found: PartLosses, report: Report) -> PartLosses:
        report.progress(0.0, f"What is lost: {part.name or 'the model'}")
        known = sensitivities(part, self.units, self.model.tied, self.seed)
        count = found.count if part.number else self.loss.count
        last = part.number + 1 == part.total
        matrices = {matrix.layer.weight: matrix for matrix in part.matrices}
        here = PartLosses(count=count)
        whole = not part.prefix or part.number % EVERY == 1
        reached = [unit for unit in self.units if unit.weight in known]
        for unit in self.units:
            own, shared = known.get(unit.weight), unit.kind == "embedding" or bool(unit.aliases)
            if own is not None:
                share = reached.index(unit) / len(reached)
                report.progress(PASSES + (1 - PASSES) * share, f"What is lost: {unit.name}")
            if shared and own is not None:
                self.carried.setdefault(unit.weight, {})[part.number] = own
            if shared and last:
                own = reduce(LayerSensitivity.joined, self.carried.get(unit.weight, {}).values(), LayerSensitivity())
            elif last and own is None and unit.name not in found.losses:
                own = LayerSensitivity()  # no sample reached it
            elif shared or own is None:
                continue
            matrix = matrices.get(unit.weight) or WeightMatrix(unit, unit.name, "", unit.layout, self.model)
            within = unit.name.removeprefix(part.prefix)
            neighbour = None if whole else found.like.get(within)
            row_by_row = part.number % WHOLE != 1
            losses = option_losses(matrix, own, self.options[unit.name], count, neighbour, row_by_row)
            here.losses[unit.name] = losses
            if part.prefix and neighbour is None:
                here.like[within] = losses
            if unit.kind != "other":
                here.most[unit.name] = bytes_at_most(matrix, self.options[unit.name])
            if unit.shape:
                here.noise[unit.name] = own.cost(rounding_error(matrix.floats()), count)
        here.cuts = group_losses(self.offers, part, known, count)
        return here


def _write(path: Path, content: Any) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content), encoding="utf8")
    unfinished.replace(path)


def _write_carried(path: Path, content: dict[str, Any]) -> None:
    """What is known here of tensors that a part to come uses too."""
    unfinished = path.with_suffix(".unfinished")
    torch.save(content, unfinished)
    unfinished.replace(path)
