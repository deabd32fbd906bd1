"""Learning from a teacher: its answers, softened, and what it computes on the way to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from webapp.engine.architectures import classes
from webapp.engine.architectures.build import build
from webapp.engine.architectures.rows import row_of_blocks
from webapp.engine.data.batches import JUDGED_BY_ORIGINAL, Batch, outputs
from webapp.engine.data.targets import two_classes
from webapp.engine.data.tasks import answer_shape, for_task, why_not
from webapp.engine.errors import RecipeInvalid
from webapp.engine.facts import BY_NUMBERS, PER_TOKEN, ArchitectureSpec, Task
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.math import losses
from webapp.engine.weights.model import Model

from .student import Objective, Student, label_loss

TITLES: dict[Task | None, str] = {
    "embedding": "Loss (distance of embeddings)",
    **dict.fromkeys(BY_NUMBERS, "Loss (relative squared error)"),
}


class Watch:
    """`hidden` holds what each of `paths` put out in the last pass, `attention` the maps (B, heads, T, keys)."""

    def __init__(self, module: nn.Module, attention: bool = False) -> None:
        self.paths = steps_of(module)
        self.hidden: list[Tensor] = []
        self.attention: list[Tensor] = []
        for path in self.paths:
            module.get_submodule(path).register_forward_hook(self._keep_hidden)
        if attention:
            for part in module.modules():
                if "Attention" in type(part).__name__:
                    part.register_forward_hook(self._keep_attention)

    def clear(self) -> None:
        self.hidden, self.attention = [], []

    def _keep_hidden(self, part: nn.Module, args: Any, out: Any) -> None:
        self.hidden.append(out[0] if isinstance(out, tuple) else out)

    def _keep_attention(self, part: nn.Module, args: Any, out: Any) -> None:
        maps = out[1] if isinstance(out, tuple) and len(out) > 1 else None
        if isinstance(maps, Tensor) and maps.dim() == 4 and not any(maps is known for known in self.attention):
            self.attention.append(maps)


def steps_of(module: nn.Module) -> list[str]:
    """The blocks of a row of alike blocks; without such a row every linear layer and convolution but the last."""
    from webapp.engine.architectures.factored_layers import FactoredModule

    row = row_of_blocks(module)
    if row is not None:
        return [f"{row}.{index}" for index in range(len(list(module.get_submodule(row).children())))]
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, FactoredModule)
    found = [name for name, part in module.named_modules() if isinstance(part, kinds)]
    inside = {f"{name}." for name in found}
    return [name for name in found if not any(name.startswith(prefix) for prefix in inside)][:-1]


def paired(students: int, teachers: int) -> list[tuple[int, int]]:
    """Which of the student's steps learns from which of the teacher's: evenly apart, the last from the last."""
    return [(index, max(1, (index + 1) * teachers // students) - 1) for index in range(students)] if teachers else []


@dataclass(frozen=True)
class Divergence:
    """How distributions are compared; see `losses.soft_targets`."""

    temperature: float = 1.0
    reverse: bool = False
    skew: float = 0.0

    def of(self, student: Tensor, teacher: Tensor) -> Tensor:
        return losses.soft_targets(student, teacher, self.temperature, self.reverse, self.skew)


@dataclass(frozen=True)
class LossWeights:
    """What counts how much; `hard` is the share of the labels, one minus it that of the teacher's answers."""

    divergence: Divergence
    hard: float
    hidden: float
    hidden_by: Literal["squares", "cosine"]
    attention: float


class Teaching(Objective):
    """The student's answers follow the teacher's: as distributions, embeddings, or plain numbers."""

    def __init__(self, teacher: Model, student: Student, weights: LossWeights, seed: int, example: Batch) -> None:
        """`example` shows how wide what is compared is. Raises RecipeInvalid where the two do not fit."""
        assert teacher.architecture is not None
        self.weights, self.spec, self.device = weights, teacher.architecture, student.device
        check_alike(self.spec, student.spec)
        self.title = TITLES.get(student.spec.task, "Loss (nats)")
        self.module = build(teacher).to(student.device).requires_grad_(False)
        self.watched = [Watch(m, bool(weights.attention)) for m in (self.module, student.module)] if self._looks else []
        if weights.attention:
            for module in (self.module, student.module):
                _eager(module)
        self.projections = nn.ModuleDict()
        self.pairs: list[tuple[int, int]] = []
        labelled = student.spec.task == "causal-lm" or example.targets is not None
        self.hard = weights.hard if labelled else 0.0
        if weights.hard and not labelled and student.spec.task not in JUDGED_BY_ORIGINAL:
            self.note = "the samples have no labels, so the teacher's answers alone count"
        self._fit(student, example, seed)

    @property
    def _looks(self) -> bool:
        return bool(self.weights.hidden or self.weights.attention)

    def extra(self) -> dict[str, nn.Parameter]:
        return {f"projections.{name}": weight for name, weight in self.projections.named_parameters()}

    def loss(self, student: Student, batch: Batch) -> Tensor:
        for watch in self.watched:
            watch.clear()
        expected, answers = self.answers(batch), student(batch)
        weights, spec = self.weights, student.spec
        if spec.task == "embedding":
            total = losses.cosine_distance(answers, expected) + losses.relative_squares(answers, expected)
        elif spec.task in BY_NUMBERS:
            total = (1 - self.hard) * losses.relative_squares(answers, expected)
            if self.hard:  # as the teacher's part, free of the numbers' scale
                scale = expected.square().mean().clamp(min=losses.LEAST)
                total = total + self.hard * label_loss(spec, answers, batch) / scale
        else:
            own, taught = answers, expected
            if spec.task in PER_TOKEN:
                own, taught = _rows(answers, batch), _rows(expected, batch)
            elif spec.task == "segmentation":
                own, taught = (side.movedim(1, -1) for side in (two_classes(answers), two_classes(expected)))
            total = (1 - self.hard) * weights.divergence.of(own, taught)
            if self.hard:
                total = total + self.hard * label_loss(spec, answers, batch)
        if weights.hidden:
            total = total + weights.hidden * self._hidden_loss(batch)
        if weights.attention:
            total = total + weights.attention * self._attention_loss(batch)
        return total

    def answers(self, batch: Batch) -> Tensor:
        """The teacher's, with the inputs under the names that it takes."""
        ours, theirs = ("pixel_values", "x") if self.spec.family != "transformers" else ("x", "pixel_values")
        inputs = {theirs if name == ours else name: tensor for name, tensor in batch.inputs.items()}
        with torch.no_grad():
            return outputs(self.module, self.spec, replace(batch, inputs=inputs))

    def _hidden_loss(self, batch: Batch) -> Tensor:
        by = losses.cosine_distance if self.weights.hidden_by == "cosine" else losses.relative_squares
        found = []
        for own, other in self.pairs:
            taught, student = (
                _rows(watch.hidden[at], batch) for watch, at in zip(self.watched, (other, own), strict=True)
            )
            name = str(own)
            found.append(by(self.projections[name](student) if name in self.projections else student, taught))
        return torch.stack(found).mean()

    def _attention_loss(self, batch: Batch) -> Tensor:
        taught, own = (watch.attention for watch in self.watched)
        mask = batch.inputs.get("attention_mask")
        found = []
        for student, teacher in paired(len(own), len(taught)):
            sides = (own[student].float().mean(1), taught[teacher].float().mean(1))  # (B, T, keys)
            rows = [side if mask is None else side[mask.bool()] for side in sides]
            found.append(losses.attention_divergence(*(side.reshape(-1, side.shape[-1]) for side in rows)))
        return torch.stack(found).mean()

    def _fit(self, student: Student, example: Batch, seed: int) -> None:
        """One pass through both: do the answers have one shape, and where are hidden states that need a projection?"""
        student.training(False)
        with torch.no_grad():
            expected, answers = self.answers(example), student(example)
        if expected.shape != answers.shape:
            raise RecipeInvalid(
                f"The teacher ({self.spec.title}) answers with {list(expected.shape[1:])} values where the student "
                f"({student.spec.title}) has {list(answers.shape[1:])}; choose a teacher with the same classes."
            )
        if self.weights.hidden:
            self._pair(example, seed)
        if self.weights.attention and not all(watch.attention for watch in self.watched):
            raise RecipeInvalid("The models have no attention maps to compare; set the weight of attention to 0.")

    def _pair(self, example: Batch, seed: int) -> None:
        taught, own = (watch.hidden for watch in self.watched)
        generator = torch.Generator().manual_seed(seed)
        for student, teacher in paired(len(own), len(taught)):
            theirs, ours = _rows(taught[teacher], example), _rows(own[student], example)
            if len(theirs) != len(ours):
                continue  # of another resolution
            self.pairs.append((student, teacher))
            if theirs.shape[1] != ours.shape[1]:
                drawn = torch.randn(theirs.shape[1], ours.shape[1], generator=generator) / ours.shape[1] ** 0.5
                projection = nn.Linear(ours.shape[1], theirs.shape[1], bias=False, device="meta")
                projection.weight = nn.Parameter(drawn.to(self.device))
                self.projections[str(student)] = projection
        if not self.pairs:
            raise RecipeInvalid("Teacher and student share no hidden states of one length; set their weight to 0.")


def check_alike(teacher: ArchitectureSpec, student: ArchitectureSpec) -> None:
    """Raises RecipeInvalid unless both answer with the same classes, or tokens of the same vocabulary.

    A task that neither its owner nor the architecture tells is that of the other.
    """
    teacher, student = _adopted(teacher, student.task), _adopted(student, teacher.task)
    if teacher.task != student.task:
        raise RecipeInvalid(
            f"The teacher ({teacher.title}) is for {teacher.task or 'no task that Pare knows'}, the student "
            f"({student.title}) for {student.task}; choose a teacher for the same task."
        )
    known = [answer_shape(spec) for spec in (teacher, student)]
    shapes = [" × ".join(map(str, shape)) for shape in known if shape is not None]
    for what, theirs, ours in (
        ("tokens in its vocabulary", teacher.inputs.get("vocab"), student.inputs.get("vocab")),
        ("classes", classes(teacher), classes(student)),
        ("values in its answer", *(shapes if len(shapes) == 2 else (None, None))),
    ):
        if theirs != ours:
            raise RecipeInvalid(
                f"The teacher ({teacher.title}) has {theirs} {what}, the student ({student.title}) {ours}; "
                "they have to be the same."
            )


def _adopted(spec: ArchitectureSpec, task: Task | None) -> ArchitectureSpec:
    return for_task(spec, task) if spec.task is None and task is not None and why_not(spec, task) is None else spec


def _rows(states: Tensor, batch: Batch) -> Tensor:
    """Float32 (rows, width) without padding, of (B, T, width), images (B, width, H, W) or (B, width)."""
    if states.dim() == 4:
        states = states.permute(0, 2, 3, 1)
    mask = batch.inputs.get("attention_mask")
    if mask is not None and states.dim() == 3 and states.shape[:2] == mask.shape:
        states = states[mask.bool()]
    return states.reshape(-1, states.shape[-1]).float()


def _eager(module: nn.Module) -> None:
    """Attention that gives its maps away."""
    choose = getattr(module, "set_attn_implementation", None)
    if choose is None:
        raise RecipeInvalid("Only transformers have attention maps; set the weight of attention to 0.")
    choose("eager")
