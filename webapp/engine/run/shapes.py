"""A run before it is done: its models after each step and the samples that go through them, as sizes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pydantic import BaseModel

from webapp.engine.data.memory import BatchSizes, ModelMemory, probe_of, samples_of
from webapp.engine.data.tasks import for_task
from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, DatasetFacts, Task
from webapp.engine.recipe import Recipe

from .predict import StepLeft, left_by, plans_of, size_of

PROCESS_BYTES = 450_000_000  # Python, torch and the libraries that read models, before anything is done


class Footprint(BaseModel):
    """`memory_bytes` of a process, None where it is not foreseen; `disk_bytes` of what it leaves behind."""

    memory_bytes: int | None
    disk_bytes: int

    @classmethod
    def of(cls, working_bytes: int | None, disk_bytes: int) -> Footprint:
        memory = None if working_bytes is None else PROCESS_BYTES + working_bytes
        return cls(memory_bytes=memory, disk_bytes=disk_bytes)


@dataclass(frozen=True)
class RunShapes:
    """`evaluating` None: quality is not measured. `seen`: the dataset that techniques see, None without one."""

    facts: CheckpointFacts
    spec: ArchitectureSpec | None  # for the run's task
    left: Sequence[StepLeft]  # by step
    evaluating: BatchSizes | None
    seen: DatasetFacts | None
    teacher: CheckpointFacts | None

    @classmethod
    def of(
        cls,
        facts: CheckpointFacts,
        recipe: Recipe,
        task: Task | None,
        evaluate: tuple[DatasetFacts, int] | None,
        training: DatasetFacts | None,
        teacher: CheckpointFacts | None,
    ) -> RunShapes:
        """`evaluate`: a dataset, and how many samples of it at most. Raises RecipeInvalid."""
        spec = facts.architecture and for_task(facts.architecture, task)
        evaluating = samples_of(spec, *evaluate) if spec and evaluate else None
        seen = training or (evaluate[0] if evaluate else None)
        return cls(facts, spec, list(left_by(facts, recipe)), evaluating, seen, teacher)

    def with_recipe(self, recipe: Recipe) -> RunShapes:
        return replace(self, left=list(left_by(self.facts, recipe)))

    @property
    def known(self) -> bool:
        """Whether it is known what a pass through the model takes, or none is made."""
        return self.spec is None or self.facts.pass_size is not None

    @cached_property
    def original(self) -> ModelMemory:
        return ModelMemory.of(self.facts, plans_of(self.facts))

    @cached_property
    def teaching(self) -> ModelMemory:
        """Who teaches: the teacher, else the original."""
        return self.original if self.teacher is None else ModelMemory.of(self.teacher, plans_of(self.teacher))

    @cached_property
    def models(self) -> list[ModelMemory]:
        """The original, then what each step leaves."""
        return [self.original, *(ModelMemory.of(left.facts, left.plans) for left in self.left)]

    @cached_property
    def sizes(self) -> list[int]:
        """The bytes of their files."""
        after = (size_of(left.facts, left.plans) for left in self.left)
        return [self.facts.weights_bytes, *after]

    @property
    def result(self) -> ModelMemory:
        return self.models[-1]

    @cached_property
    def probe(self) -> BatchSizes | None:
        return probe_of(self.spec) if self.spec is not None and self.spec.inputs else None

    def proof(self, model: ModelMemory) -> int:
        """Of a model that answers the probe twice; of one without an architecture, of reading it."""
        if self.probe is None:
            return model.reading
        return model.module + 2 * model.passes(self.probe)

    def evaluation(self, *models: ModelMemory) -> int:
        """Of models that answer the evaluation split side by side; 0 where it is not measured."""
        if self.evaluating is None:
            return 0
        return sum(model.module + model.passes(self.evaluating) for model in models)
