"""Going on from what a run delivered: a run whose recipe begins with the earlier one's steps, on the same data.

The stages that both share have the same keys, so that the workers find them in the store; the original stays what is
compared with, and the receipt tells of all steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy.orm import Session

from webapp.engine.errors import RecipeInvalid
from webapp.engine.facts import Task
from webapp.engine.recipe import Recipe
from webapp.engine.run.stages import RunGiven, plan_stages
from webapp.engine.run.stages.base import SourceDigests
from webapp.store.digests import normalised_digest
from webapp.store.files import FileStore
from webapp.store.models import Checkpoint, Dataset, Run, RunState

from .errors import Conflict, NotFound

if TYPE_CHECKING:
    from .run_requests import RunRequest

KEPT = ("dataset_id", "training_dataset_id", "teacher_checkpoint_id", "seed")  # as before, where nothing else is said
BEFORE = ("baseline", "step")  # the stages, by their kinds, that a continued run takes over


def run_to_continue(session: Session, run_id: str, field: str = "run_id") -> Run:
    """Raises NotFound, or Conflict where the run has delivered nothing."""
    run = session.get(Run, run_id)
    if run is None:
        raise NotFound(f"There is no run {run_id[:40]}. It may have been deleted.", field)
    if run.state != RunState.SUCCEEDED or run.receipt is None:
        raise Conflict(
            f"The run {run.name} is {run.state}, and only one that has succeeded can be continued. Fork it to change "
            "its recipe.",
            field,
        )
    return run


def continued(run: Run, asked: RunRequest, recipe: Recipe) -> RunRequest:
    """What is asked for, with the run's checkpoint, and its steps in front of those of `recipe`.

    Whatever else it does not say, of the data, the teacher and the seed, is as of the run. Raises RecipeInvalid.
    """
    changes: dict[str, Any] = {name: getattr(run, name) for name in KEPT if name not in asked.model_fields_set}
    same_data = all(getattr(asked, name) == getattr(run, name) for name in KEPT[:2] if name not in changes)
    if asked.preprocessing is None and same_data:
        changes["preprocessing"] = run.preprocessing
    whole = joined(run, recipe).as_dict()
    return asked.model_copy(update={**changes, "checkpoint_id": run.checkpoint_id, "run_id": None, "recipe": whole})


def joined(run: Run, recipe: Recipe) -> Recipe:
    """The run's steps, and those of the recipe after them. Raises RecipeInvalid where they are too many."""
    steps = [step.canonical() for part in (Recipe.read(run.recipe), recipe) for step in part.steps]
    return Recipe.read({"version": 2, "steps": steps})


@contextmanager
def counted_from(count: int) -> Iterator[None]:
    """Of a recipe that has `count` earlier steps in front: an error names the step as it was sent, steps.0 the first of
    them; one about an earlier step is about the run that it is of."""
    try:
        yield
    except RecipeInvalid as error:
        if not count or not (found := re.match(r"steps\.(\d+)", error.field or "")):
            raise
        if (number := int(found[1])) < count:
            raise RecipeInvalid(f"This run cannot be continued: {error.message}", "run_id") from None
        there, sent = f"steps.{number}", f"steps.{number - count}"
        message = error.message.replace(f"`{there}", f"`{sent}")
        raise RecipeInvalid(message, f"{sent}{(error.field or '')[len(there) :]}") from None


def given_of(run: Run) -> RunGiven:
    """What decides the stages of its steps and formats. Raises RecipeInvalid."""
    return RunGiven(
        recipe=Recipe.read(run.recipe),
        exports=tuple(run.exports),
        seed=run.seed or 0,  # of one that is not in the database yet, None
        task=cast("Task | None", run.task),
        preprocessing=run.preprocessing,
    )


def digests_of(checkpoint: Checkpoint, *others: Checkpoint | Dataset | None) -> SourceDigests:
    """`others`: the dataset, the one that trains, the teacher."""
    return SourceDigests(normalised_digest(checkpoint), *(row and normalised_digest(row) for row in others))


def to_make_again(run: Run, files: FileStore) -> list[str]:
    """The titles of its stages that a run which goes on from it has to do anew: their output was removed from the store
    since, or Pare was updated. Raises RecipeInvalid for a technique that is there no more."""
    sources = digests_of(run.checkpoint, run.dataset, run.training_dataset, run.teacher_checkpoint)
    done = {stage.name: stage for stage in run.stages}
    return [
        stage.title
        for name, stage in plan_stages(given_of(run)).items()
        if stage.kind in BEFORE
        and not (
            name in done
            and done[name].key == stage.key(sources)
            and all(files.exists(entry["digest"]) for entry in done[name].files.values())
        )
    ]
