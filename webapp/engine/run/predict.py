"""What a recipe will give and what it cannot reach, from shapes alone: quick, and checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from webapp.engine.architectures.reshape import Plans, ShapeChange, reshaped_facts, reshaped_plans
from webapp.engine.errors import RecipeInvalid, some
from webapp.engine.facts import CheckpointFacts, LayerFacts
from webapp.engine.recipe import Recipe, Step, StepSettings, TechniqueSettings, invalid, matches, select_layers
from webapp.engine.techniques import Context, Need, Outcome, Skip, Technique, technique
from webapp.engine.weights import StoragePlan, stored_plan
from webapp.engine.weights.artifact import predicted_size
from webapp.engine.weights.manifest import stored_activations
from webapp.engine.weights.model import Model

Answer = TypeVar("Answer")
MOST = 8  # rows that name a tensor; the others are one row
KIND_LABELS = {
    "linear": "linear layers",
    "conv": "convolutions",
    "embedding": "embeddings",
    "recurrent": "recurrent matrices",
    "experts": "stacks of experts",
}
NO_LAYER = "multiplies in no layer that is known here (a table that is added, or an operation of its own)"
VECTORS = "vectors are small and sensitive"
STILL = "changed by a cast and by training only"


@dataclass(frozen=True)
class Held:
    """A float tensor, and what kind of layer it is the weight of ("other": of none)."""

    name: str
    kind: str
    shape: Sequence[int]
    bytes: int


class Unreached(BaseModel):
    """One row: a tensor, or several of one sort."""

    what: str
    bytes: int
    share: float
    why: str


def unreached(held: Iterable[Held], total: int, techniques: Sequence[Technique] | None = None) -> list[Unreached]:
    """The rows, largest first, of what none of these techniques works on; None: of what belongs to no layer at all.

    Training leaves every tensor as large as it was, so it is not counted as reaching one. `total` is the file's bytes.
    """
    shrink = [technique for technique in techniques or () if technique.family != "Training"]
    if techniques is not None and not shrink:
        return []
    kinds = frozenset(KIND_LABELS) if techniques is None else frozenset().union(*(each.layers for each in shrink))
    rest = sorted((one for one in held if one.kind not in kinds), key=lambda one: (-one.bytes, one.name))
    vectors = [one for one in rest if len(one.shape) < 2]
    tensors = [one for one in rest if one not in vectors]
    rows = [_row([one], total, _why(one, shrink)) for one in tensors[:MOST]]
    rows += [_row(tensors[MOST:], total, STILL)] if tensors[MOST:] else []
    rows += [_row(vectors, total, f"{VECTORS}; {STILL}")] if vectors else []
    return rows


def _why(one: Held, shrink: Sequence[Technique]) -> str:
    if one.kind == "other":
        return f"{NO_LAYER}; {STILL}"
    works = f"{some([each.title for each in shrink])} work{'' if shrink[1:] else 's'} on"
    kinds = sorted({KIND_LABELS[kind] for each in shrink for kind in each.layers if kind in KIND_LABELS})
    return f"{works} {', '.join(kinds)}; this is one of the {KIND_LABELS[one.kind]}"


def _row(held: Sequence[Held], total: int, why: str) -> Unreached:
    taken = sum(one.bytes for one in held)
    vectors = all(len(one.shape) < 2 for one in held)
    several = f"{len(held):,} {'vectors' if vectors else 'tensors'}, such as {held[0].name}"
    what = several if held[1:] else held[0].name
    return Unreached(what=what, bytes=taken, share=taken / max(total, 1), why=why)


class Totals(BaseModel):
    """A file before it is written. `bits_per_weight` counts all its bytes over the original's parameters."""

    size_bytes: int
    params_total: int
    params_nonzero: int
    params_stored: int
    sparsity: float
    bits_per_weight: float


class SkippedLayer(BaseModel):
    layer: str
    reason: str


class StepPrediction(BaseModel):
    technique: str
    title: str
    matched: list[str]
    skipped: list[SkippedLayer]
    size_bytes: int  # of the file if the recipe ended here


class Prediction(BaseModel):
    before: Totals
    after: Totals
    exact: bool  # False: the values decide too, and `after` is an estimate
    steps: list[StepPrediction]
    warnings: list[str]
    unreached: list[Unreached]  # what none of the steps works on
    kinds: list[str]  # the forms in which weights will be stored: "dense", "quantized", "factored", ...


class PatternMatch(BaseModel):
    """What one pattern matches among the layers that the technique can work on."""

    pattern: str
    layers: list[str]


class StepMatches(BaseModel):
    include: list[PatternMatch]
    exclude: list[PatternMatch]
    overrides: list[PatternMatch] = Field(description="With the layers of the step for which this override counts.")
    selected: list[str]


@dataclass(frozen=True)
class PreparedStep:
    """A step after its check: the technique, its settings, and the layers that it is for."""

    position: int  # 0 is the first
    technique: Technique
    settings: StepSettings
    layers: list[LayerFacts]

    def needs(self, facts: CheckpointFacts) -> frozenset[Need]:
        """The step's, its overrides' too, without what came with the checkpoint. `facts` are of what it begins with."""
        each = (self.settings.own, *(given for _, given in self.settings.overrides))
        wanted = frozenset[Need]().union(*(self.technique.needs_for(given) for given in each))
        return wanted - self.technique.brought(facts, self.settings.own)

    def exact(self, facts: CheckpointFacts, plans: Plans) -> bool:
        """Whether each layer's bytes are known without its values, of a model that is stored like this."""
        known = all(self.technique.exact(self.settings.of(layer)) for layer in self.layers)
        zeros = self.technique.counts_zeros or not any(plan.pruned for plan in plans.values())
        return known and zeros and self.technique.removes_alike(facts, self.layers, plans, self.settings)

    def reshaped(self, facts: CheckpointFacts) -> ShapeChange | None:
        """Raises RecipeInvalid where nothing of the model can be reshaped in this way."""
        return self._doable(lambda: self.technique.reshape(facts, self.layers, self.settings))

    def untouched(self, facts: CheckpointFacts) -> Iterator[SkippedLayer]:
        """What of the chosen layers will stay as it is because of others. Raises RecipeInvalid like `reshaped`."""
        for layer, reason in self._doable(lambda: self.technique.untouched(facts, self.layers, self.settings)).items():
            yield SkippedLayer(layer=layer, reason=reason)

    def applied(self, model: Model, context: Context) -> list[Outcome]:
        """Changes the model, in a child process. Raises RecipeInvalid like `reshaped`."""
        return self._doable(lambda: self.technique.apply(model, self.settings, context))

    def _doable(self, answer: Callable[[], Answer]) -> Answer:
        try:
            return answer()
        except Skip as reason:
            raise RecipeInvalid(
                f"Step {self.position + 1} ({self.technique.title}) cannot be done: {reason}.", f"steps.{self.position}"
            ) from None


def prepare(facts: CheckpointFacts, recipe: Recipe) -> list[PreparedStep]:
    """Every step with its technique, settings and layers. Raises RecipeInvalid with the field that is wrong.

    What a step does to shapes and names is predicted; where values decide, use `prepare_step` on the model itself.
    """
    found = []
    for position, step in enumerate(recipe.steps):
        found.append(prepare_step(facts, step, position))
        change = found[-1].reshaped(facts)
        facts = reshaped_facts(facts, change) if change else facts
    return found


def match_layers(facts: CheckpointFacts, step: Step, position: int = 0) -> StepMatches:
    """What each pattern of a step matches, for the form. Raises RecipeInvalid for an unknown technique only."""
    found = technique(step.technique, step.version, f"steps.{position}.technique")
    layers = [layer for layer in facts.units() if layer.kind in found.layers]
    with suppress(RecipeInvalid):
        _, settings = understood(step, position)
        layers = [layer for layer in layers if found.works_on(layer, settings.of(layer))]
    selected = select_layers(layers, step.layers)
    deciding = StepSettings(None, tuple((pattern, pattern) for pattern in step.overrides))
    decided = [(layer.name, deciding.of(layer)) for layer in selected]

    def matched(pattern: str) -> PatternMatch:
        return PatternMatch(pattern=pattern, layers=[layer.name for layer in layers if matches(layer, pattern)])

    return StepMatches(
        include=[matched(p) for p in step.layers.include],
        exclude=[matched(p) for p in step.layers.exclude],
        overrides=[
            PatternMatch(pattern=p, layers=[name for name, pattern in decided if pattern == p]) for p in step.overrides
        ],
        selected=[layer.name for layer in selected],
    )


def predict(facts: CheckpointFacts, recipe: Recipe) -> Prediction:
    """The file that the recipe will give. Raises RecipeInvalid where it cannot be applied, with reason and field."""
    plans = plans_of(facts)
    before = _totals(facts, plans, facts).model_copy(update={"size_bytes": facts.weights_bytes})
    exact, steps = True, []
    warnings = [facts.weights_only_because] if facts.weights_only_because else []
    original = facts
    for now in left_by(facts, recipe):
        step, facts, plans = now.step, now.facts, now.plans
        exact = exact and step.exact(now.facts_before, now.plans_before)
        steps.append(
            StepPrediction(
                technique=step.technique.name,
                title=step.technique.title,
                matched=[layer.name for layer in step.layers],
                skipped=now.skipped,
                size_bytes=_totals(facts, plans, original).size_bytes,
            )
        )
        warnings.extend(_warnings(step, recipe.steps[step.position], now.skipped))
    after = _totals(facts, plans, original)
    if after.size_bytes >= before.size_bytes:
        warnings.append("The file will not be smaller than the original.")
    left = unreached(_held(facts, plans), after.size_bytes, [technique(step.technique) for step in recipe.steps])
    return Prediction(
        before=before, after=after, exact=exact, steps=steps, warnings=warnings, unreached=left, kinds=kinds_of(plans)
    )


@dataclass(frozen=True)
class StepLeft:
    """What a step leaves, beside what it begins with."""

    step: PreparedStep
    facts_before: CheckpointFacts
    plans_before: Plans
    facts: CheckpointFacts
    plans: Plans
    skipped: list[SkippedLayer]


def kinds_of(plans: Plans) -> list[str]:
    """The storage forms among them."""
    return sorted({plan.kind for plan in plans.values()})


def result_of(facts: CheckpointFacts, recipe: Recipe) -> StepLeft:
    """What the last step leaves. Raises RecipeInvalid as `predict` does, which counts more and takes longer."""
    *_, last = left_by(facts, recipe)
    return last


def plans_of(facts: CheckpointFacts) -> Plans:
    """The original's tensors as they are stored."""
    return {tensor.name: stored_plan(tensor) for tensor in facts.tensors}


def left_by(facts: CheckpointFacts, recipe: Recipe) -> Iterator[StepLeft]:
    """Step by step, from shapes. Raises RecipeInvalid."""
    plans = plans_of(facts)
    for position, asked in enumerate(recipe.steps):
        step = prepare_step(facts, asked, position)
        stored: Plans = {name: plan.opened for name, plan in plans.items()}
        closed = {id(stored[name]): plan for name, plan in plans.items()}
        plans = dict(stored)
        skipped = [*_advance(plans, step), *step.untouched(facts)]
        change = step.reshaped(facts)
        after = reshaped_facts(facts, change) if change else facts
        plans = reshaped_plans(plans, change) if change else plans
        plans = {name: closed.get(id(plan), plan) for name, plan in plans.items()}
        yield StepLeft(step, facts, stored, after, plans, skipped)
        facts = after


def held_by(facts: CheckpointFacts) -> list[Held]:
    """Its float tensors as they are."""
    return _held(facts, {tensor.name: stored_plan(tensor) for tensor in facts.tensors})


def _held(facts: CheckpointFacts, plans: Mapping[str, StoragePlan]) -> list[Held]:
    units = ((layer, plans[layer.weight]) for layer in facts.units())
    return [Held(layer.weight, layer.kind, layer.shape, plan.bytes) for layer, plan in units]


def understood(step: Step, position: int) -> tuple[Technique, StepSettings]:
    """The step's technique and settings, whatever the checkpoint. Raises RecipeInvalid."""
    where = f"steps.{position}"
    found = technique(step.technique, step.version, f"{where}.technique")
    own = _settings(found, step.settings, f"{where}.settings")
    free, overrides = found.Settings.per_layer(), []
    if step.overrides and not free:
        raise RecipeInvalid(
            f"{found.title} treats all layers of a step alike; remove `overrides`, or write a step for each kind.",
            f"{where}.overrides",
        )
    for pattern, given in step.overrides.items():
        field = f"{where}.overrides.{pattern}"
        for key in given:
            if key in found.Settings.model_fields and key not in free:
                raise RecipeInvalid(
                    f"`{key}` of {found.title} is the same for all layers of a step; an override can change "
                    f"{', '.join(free)}.",
                    f"{field}.{key}",
                )
        overrides.append((pattern, _settings(found, {**step.settings, **given}, field)))
    return found, StepSettings(own, tuple(overrides))


def _settings(found: Technique, given: dict[str, Any], field: str) -> TechniqueSettings:
    try:
        return found.Settings.model_validate(given)
    except ValidationError as error:
        raise invalid(error, field) from None


def prepare_step(facts: CheckpointFacts, step: Step, position: int) -> PreparedStep:
    """One step, checked against the model as the steps before it leave it. Raises RecipeInvalid."""
    where = f"steps.{position}"
    found, settings = understood(step, position)
    if reason := found.lacks():
        raise RecipeInvalid(f"{found.title} cannot be done here: {reason}.", f"{where}.technique")
    settings = found.settled(facts, settings)
    if "architecture" in found.needs_for(settings.own) and facts.architecture is None:
        raise RecipeInvalid(f"{found.title} needs an architecture. {facts.weights_only_because}", f"{where}.technique")
    everything = facts.units()
    layers = [layer for layer in everything if found.works_on(layer, settings.of(layer))]
    if not layers:
        kinds = ", ".join(sorted(found.layers))
        raise RecipeInvalid(
            f"{found.title} works on layers of kind {kinds}, and this checkpoint has none.", f"{where}.technique"
        )
    for index, pattern in enumerate(step.layers.include):
        _check_pattern(found, pattern, f"{where}.layers.include.{index}", layers, everything)
    for index, pattern in enumerate(step.layers.exclude):  # of what the technique would not touch anyway: no harm
        _check_pattern(found, pattern, f"{where}.layers.exclude.{index}", everything, everything)
    selected = select_layers(layers, step.layers)
    if not selected:
        raise RecipeInvalid(f"No layer is left for {found.title}: all that match are excluded.", f"{where}.layers")
    for pattern in step.overrides:
        _check_pattern(found, pattern, f"{where}.overrides.{pattern}", selected, everything)
    return PreparedStep(position, found, settings, selected)


def _check_pattern(
    found: Technique, pattern: str, field: str, layers: list[LayerFacts], everything: list[LayerFacts]
) -> None:
    """Raises RecipeInvalid where the pattern matches none of the layers that it may stand for."""
    if any(matches(layer, pattern) for layer in layers):
        return
    other = [layer for layer in everything if matches(layer, pattern)]
    why = "matches no layer" if pattern else "is empty"
    if other:
        why = f"matches {some([layer.name for layer in other], 1)}"
        if any(layer.kind in found.layers for layer in other):
            why += ", which this step leaves out"
        else:
            why += f", and {found.title} works on layers of kind {', '.join(sorted(found.layers))}"
    examples = ", ".join(layer.name for layer in layers[:3])
    raise RecipeInvalid(f"The pattern {pattern!r} {why}. Layers it could name: {examples}.", field)


def _advance(plans: dict[str, StoragePlan], step: PreparedStep) -> Iterator[SkippedLayer]:
    for layer in step.layers:
        reason = step.technique.refuses(plans[layer.weight])
        if reason:
            raise RecipeInvalid(
                f"Step {step.position + 1} ({step.technique.title}) cannot take {layer.name}: {reason}.",
                f"steps.{step.position}",
            )
        try:
            plans[layer.weight] = step.technique.plan(layer, plans[layer.weight], step.settings.of(layer))
        except Skip as skip:
            yield SkippedLayer(layer=layer.name, reason=str(skip))


def _warnings(step: PreparedStep, asked: Step, skipped: list[SkippedLayer]) -> Iterator[str]:
    named = f"Step {step.position + 1} ({step.technique.title})"
    if len(skipped) == len(step.layers):
        yield f"{named} will change nothing: {skipped[0].reason}."
    counting = {id(step.settings.of(layer)) for layer in step.layers}
    for pattern, given in step.settings.overrides:
        if id(given) not in counting:
            yield f"{named}: the override of {pattern!r} counts for no layer, since later ones match the same."
        for key in asked.overrides[pattern]:
            declared: Any = step.technique.Settings.model_fields[key].json_schema_extra
            for other, value in declared.get("show_when", {}).items():
                if (there := getattr(given, other)) != value:
                    yield f"{named}: {key} counts where {other} is {value}; where {pattern!r} counts it is {there}."


def size_of(facts: CheckpointFacts, plans: Plans) -> int:
    """The bytes of the file that such a model is stored in."""
    activations = stored_activations({"activations": facts.activations})
    return predicted_size(plans, facts.tied, facts.architecture, activations)[1]


def _totals(facts: CheckpointFacts, plans: dict[str, StoragePlan], original: CheckpointFacts) -> Totals:
    floats = [plan for plan in plans.values() if "float" in plan.dtype]
    total, nonzero = sum(p.params for p in floats), sum(p.nonzero for p in floats)
    size = size_of(facts, plans)
    return Totals(
        size_bytes=size,
        params_total=total,
        params_nonzero=nonzero,
        params_stored=sum(p.stored for p in floats),
        sparsity=1 - nonzero / total if total else 0.0,
        bits_per_weight=8 * size / max(original.params_total, 1),
    )
