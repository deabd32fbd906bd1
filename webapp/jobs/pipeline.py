"""What a run asks of the engine in the worker's own process: which stages there are, and what they add up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Plan(Protocol):
    """A stage: `inputs` names the earlier ones it reads, `weight` is its share of the run's time.

    Where one with a `format` fails, only that format does; one that is `optional` fails alone.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def weight(self) -> float: ...
    @property
    def format(self) -> str | None: ...
    @property
    def optional(self) -> bool: ...


class Pipeline(Protocol):
    """`run` has recipe, exports, seed and options. All of it is JSON data."""

    def prepare(self) -> None:
        """Called once, before the worker says that it is there."""

    def stages(self, run: Mapping[str, Any]) -> Sequence[Plan]: ...

    def key(
        self,
        stage: str,
        run: Mapping[str, Any],
        checkpoint: str,
        dataset: str | None,
        training: str | None,
        teacher: str | None,
    ) -> str:
        """The hash of everything that decides what the stage makes; the data and the teacher come as digests."""

    def conclude(
        self,
        run: Mapping[str, Any],
        checkpoint: Mapping[str, Any],
        dataset: Mapping[str, Any] | None,
        training_dataset: Mapping[str, Any] | None,
        stage_facts: Mapping[str, Any],
        stage_files: Mapping[str, Any],
        failed: Mapping[str, Any],
    ) -> dict[str, Any]:
        """{"baseline", "result", "receipt", "artifacts"}; of the stages that are done, and why those in `failed` are
        not."""


class EnginePipeline:
    """The engine's. Its import takes seconds and lets no other thread run, so it is not left to the first run."""

    def prepare(self) -> None:
        from webapp.engine.run import receipt

        assert receipt

    def stages(self, run: Mapping[str, Any]) -> Sequence[Plan]:
        from webapp.engine import recipe
        from webapp.engine.run import plan as pipeline

        return pipeline.stages(recipe.Recipe.model_validate(run["recipe"]), run["exports"])

    def key(
        self,
        stage: str,
        run: Mapping[str, Any],
        checkpoint: str,
        dataset: str | None,
        training: str | None,
        teacher: str | None,
    ) -> str:
        from webapp.engine import recipe
        from webapp.engine.run import plan as pipeline

        steps = recipe.Recipe.model_validate(run["recipe"])
        return pipeline.stage_key(
            stage, steps, run["exports"], run["seed"], run["options"], checkpoint, dataset, training, teacher
        )

    def conclude(
        self,
        run: Mapping[str, Any],
        checkpoint: Mapping[str, Any],
        dataset: Mapping[str, Any] | None,
        training_dataset: Mapping[str, Any] | None,
        stage_facts: Mapping[str, Any],
        stage_files: Mapping[str, Any],
        failed: Mapping[str, Any],
    ) -> dict[str, Any]:
        from webapp.engine.run import receipt

        return receipt.conclude(run, checkpoint, dataset, training_dataset, stage_facts, stage_files, failed)
