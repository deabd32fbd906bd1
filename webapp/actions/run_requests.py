"""Asking for a run: the recipe is checked against the checkpoint and the datasets, then a row is made and queued.

The form and the API both come through here, so a run that cannot work is refused the same way by both.
"""

from __future__ import annotations

from typing import Annotated, Any, Protocol, cast

from pydantic import BaseModel, Field, model_validator
from sqlalchemy.orm import Session

from webapp.engine.data.tasks import with_task
from webapp.engine.errors import BudgetInvalid, RecipeVaries
from webapp.engine.exporters import with_always
from webapp.engine.facts import CheckpointFacts, DatasetFacts, Task
from webapp.engine.recipe import Recipe, read_text
from webapp.engine.run.budgets import expected_of
from webapp.engine.run.checks import NamedDataset, check_run, task_of
from webapp.engine.run.footprint import RunFootprint, check_fits, shapes_of
from webapp.engine.run.stages import RunGiven
from webapp.engine.run.sweep import is_sweep
from webapp.engine.techniques import technique_title, with_versions
from webapp.store.models import ArtifactState, Checkpoint, Dataset, Run, RunState, UploadState

from .budgets import AskedBudget, expected_by_profile, profile_to_ask, solved
from .continuing import continued, counted_from, run_to_continue
from .errors import Conflict, NotFound
from .workers import memory_limit


class RunQueue(Protocol):
    """The part of the job client that runs need."""

    def enqueue_run(self, run_id: str) -> Any: ...
    def cancel_run(self, run_id: str) -> Any: ...
    def retry_run(self, run_id: str, format: str | None = None) -> Any: ...


AskedRecipe = Annotated[
    dict[str, Any] | str,
    Field(
        description="The recipe, or its text in YAML or JSON: `version` (2) and `steps`, each with its `technique`, "
        "`settings`, `layers` (`include` and `exclude`, lists of patterns) and `overrides`, a mapping from patterns to "
        "settings that replace the step's own, or a list of [pattern, settings]. Of the patterns that match a layer, "
        "the last one alone counts."
    ),
]


class RunRequest(BaseModel, extra="forbid"):
    """What is asked for."""

    checkpoint_id: str | None = None
    run_id: str | None = Field(
        None,
        description="In place of a checkpoint: a run that succeeded, which is continued. The recipe's steps come after "
        "its own. What is not said of the data, the teacher and the seed is as of that run.",
    )
    dataset_id: str | None = Field(None, description="Evaluates; without it quality is not measured.")
    training_dataset_id: str | None = Field(None, description="Calibrates and trains, in place of the dataset's own.")
    teacher_checkpoint_id: str | None = Field(None, description="Teaches in distillation, in place of the original.")
    recipe: AskedRecipe | None = None
    budget: AskedBudget | None = Field(
        None,
        description="In place of a recipe: it is solved now, and the receipt shows what it expected beside what was "
        "measured. What else is not said, such as the datasets, is as of its profile.",
    )
    exports: list[str] = Field(
        default_factory=list,
        max_length=8,
        description="Formats to write beside the one that the receipt is measured on.",
    )
    seed: int = Field(0, ge=0, lt=2**31)
    name: str | None = Field(None, max_length=200)
    preprocessing: dict[str, Any] | None = Field(
        None, description="Of images: what differs from the architecture's own, such as height, mean or resize."
    )

    @model_validator(mode="after")
    def _one_way(self) -> RunRequest:
        if (self.recipe is None) == (self.budget is None):
            raise ValueError("a run has a recipe or a budget, one of the two")
        if (self.checkpoint_id is None) == (self.run_id is None):
            raise ValueError("a run begins with a checkpoint_id, or goes on from a run_id, one of the two")
        if self.run_id is not None and self.budget is not None:
            raise ValueError("a budget is solved for a checkpoint; a run is continued with a recipe")
        return self


class RunChanges(BaseModel, extra="forbid"):
    """What a fork changes; all else is as in the run it comes from. A null dataset_id takes the dataset away."""

    checkpoint_id: str | None = Field(None, description="Applies its recipe to another checkpoint, as a newer version.")
    dataset_id: str | None = None
    training_dataset_id: str | None = None
    teacher_checkpoint_id: str | None = None
    recipe: AskedRecipe | None = None
    exports: list[str] | None = Field(None, max_length=8)
    seed: int | None = Field(None, ge=0, lt=2**31)
    name: str | None = Field(None, max_length=200)
    preprocessing: dict[str, Any] | None = None


def create_run(session: Session, jobs: RunQueue, asked: RunRequest, forked_from_id: str | None = None) -> Run:
    """Makes a queued run and hands it to the workers. Raises as `checked_run`."""
    run = checked_run(session, asked)
    run.forked_from_id = forked_from_id
    session.add(run)
    session.commit()
    jobs.enqueue_run(run.id)
    return run


def checked_run(session: Session, asked: RunRequest) -> Run:
    """The row of a run, which is not in the database yet.

    Raises NotFound (field says which id), Conflict (something is not ready), BudgetInvalid, RecipeInvalid, DatasetUnfit
    or PreprocessingInvalid.
    """
    expected, earlier = None, None
    if asked.budget is not None:
        asked, expected = _budgeted(session, asked, asked.budget)
    assert asked.recipe is not None
    if asked.run_id is not None:
        earlier = run_to_continue(session, asked.run_id)
        asked = continued(earlier, asked, parse_recipe(asked.recipe))
    with counted_from(len(earlier.recipe["steps"]) if earlier is not None else 0):
        run = _checked(session, asked)
    run.continued_from_id = earlier.id if earlier is not None else None
    run.expected = expected or expected_by_profile(session, run)
    return run


def _checked(session: Session, asked: RunRequest) -> Run:
    assert asked.checkpoint_id is not None
    assert asked.recipe is not None
    checkpoint = ready(session, Checkpoint, asked.checkpoint_id, "checkpoint_id")
    dataset, training, teacher = (
        ready(session, table, id_, field) if (id_ := getattr(asked, field)) else None
        for table, field in (
            (Dataset, "dataset_id"),
            (Dataset, "training_dataset_id"),
            (Checkpoint, "teacher_checkpoint_id"),
        )
    )
    recipe = parse_recipe(asked.recipe)
    facts = CheckpointFacts.model_validate(checkpoint.facts)
    prepared = check_run(
        facts,
        recipe,
        asked.exports,
        named(dataset),
        named(training),
        CheckpointFacts.model_validate(teacher.facts) if teacher else None,
        asked.preprocessing,
    )
    run = Run(
        name=printable(asked.name or "") or run_name(checkpoint.name, recipe),
        checkpoint_id=checkpoint.id,
        dataset_id=dataset.id if dataset else None,
        training_dataset_id=training.id if training else None,
        teacher_checkpoint_id=teacher.id if teacher else None,
        recipe=with_versions(recipe).as_dict(),
        exports=with_always(asked.exports),
        seed=asked.seed,
        preprocessing=prepared.model_dump(mode="json") if prepared else None,
        task=task_of(facts, named(dataset), named(training)),
    )
    run.needs = needed(run, facts, dataset, training, teacher, memory_limit(session)).model_dump(mode="json")
    return run


def needed(
    run: Run,
    facts: CheckpointFacts,
    dataset: Dataset | None,
    training: Dataset | None,
    teacher: Checkpoint | None,
    limit_bytes: int | None = None,
) -> RunFootprint:
    """What a run needs of memory and disk at most. Raises RecipeInvalid where that is more than the limit."""
    asked = RunGiven(
        recipe=Recipe.read(run.recipe),
        exports=tuple(run.exports),
        seed=run.seed or 0,
        task=cast("Task | None", run.task),
        blame=None if run.blame is None else tuple(run.blame),
    )
    data = [row and DatasetFacts.model_validate(row.facts) for row in (dataset, training)]
    taught = teacher and CheckpointFacts.model_validate(teacher.facts)
    return check_fits(asked, shapes_of(asked, facts, *data, taught), limit_bytes)


def _budgeted(session: Session, asked: RunRequest, budget: AskedBudget) -> tuple[RunRequest, dict[str, Any]]:
    """The request with the budget's recipe, and what is expected of it."""
    profile = profile_to_ask(session, budget.profile_id, "budget.profile_id")
    if profile.checkpoint_id != asked.checkpoint_id:
        raise Conflict("The profile is of another checkpoint; ask for one of this.", "budget.profile_id")
    found = solved(profile, budget, asked.exports)
    if found.recipe is None:
        raise BudgetInvalid(
            "The original itself reaches this goal, so there is nothing to do. Set another.", "budget.goal"
        )
    shared = ("dataset_id", "training_dataset_id", "seed", "preprocessing")
    as_profiled = {name: getattr(profile, name) for name in shared if name not in asked.model_fields_set}
    request = asked.model_copy(update={**as_profiled, "recipe": found.recipe, "budget": None})
    expected = expected_of(profile.id, found)
    if any(getattr(request, name) != getattr(profile, name) for name in ("dataset_id", "training_dataset_id")):
        del expected["predicted"]  # of other data the profile does not learn
    return request, expected


def set_task(session: Session, checkpoint: Checkpoint, task: str | None) -> None:
    """What the checkpoint is for from now on; None: as its architecture tells. Raises Conflict or TaskUnfit."""
    ready(session, Checkpoint, checkpoint.id, "id")
    facts = dict(checkpoint.facts or {})
    spec = with_task(CheckpointFacts.model_validate(facts | {"tensors": (), "layers": ()}), task).architecture
    checkpoint.facts = facts | {"architecture": spec and spec.model_dump(mode="json")}
    checkpoint.task = spec.task if spec and task is not None else None
    session.commit()


def fork_run(session: Session, jobs: RunQueue, run: Run, changes: RunChanges) -> Run:
    """A new run like `run`, with what `changes` names; stages that both share are reused."""
    return create_run(session, jobs, fork_request(run, changes), forked_from_id=run.id)


def fork_request(run: Run, changes: RunChanges) -> RunRequest:
    """What asks for a run like it."""
    kept = {
        "checkpoint_id": run.checkpoint_id,
        "dataset_id": run.dataset_id,
        "training_dataset_id": run.training_dataset_id,
        "teacher_checkpoint_id": run.teacher_checkpoint_id,
        "recipe": Recipe.model_validate(run.recipe).as_dict(),
        "exports": run.exports,
        "seed": run.seed,
    }
    changed = changes.model_dump(exclude_unset=True)
    if run.preprocessing and not {"dataset_id", "training_dataset_id"} & set(changed):  # else by default
        kept["preprocessing"] = run.preprocessing
    for field in ("checkpoint_id", "recipe", "exports", "seed"):  # null here means: as before
        if changed.get(field, 0) is None:
            del changed[field]
    return RunRequest.model_validate(kept | changed)


def cancel_run(session: Session, jobs: RunQueue, run: Run) -> None:
    """Raises Conflict where the run has already ended."""
    if RunState(run.state).final:
        raise Conflict(f"The run {run.name} has already ended ({run.state}); there is nothing to cancel.")
    jobs.cancel_run(run.id)
    session.expire(run)


def retry_run(session: Session, jobs: RunQueue, run: Run) -> None:
    """Of a run that succeeded without some formats, those. Raises Conflict where there is nothing to retry."""
    if not RunState(run.state).final or (run.state == RunState.SUCCEEDED and not run.undelivered):
        raise Conflict(
            f"The run {run.name} is {run.state}; only a failed or cancelled run can be retried, or a format that "
            "failed. Fork it to run it again."
        )
    jobs.retry_run(run.id)
    session.expire(run)


def retry_artifact(session: Session, jobs: RunQueue, run: Run, name: str) -> None:
    """Has one format that failed written and proven again; the others keep what they have.

    Raises NotFound, or Conflict where the file is there or the run is under way.
    """
    artifact = next((artifact for artifact in run.artifacts if artifact.name == name), None)
    if artifact is None:
        raise NotFound(f"This run has no file {name[:80]!r}. Fork it with that format to have it written.")
    if artifact.state is ArtifactState.SUCCEEDED:
        raise Conflict(f"{name} was delivered; there is nothing to retry.")
    if not RunState(run.state).final:
        raise Conflict(f"The run {run.name} is {run.state}; retry {name} when it has ended.")
    jobs.retry_run(run.id, artifact.format)
    session.expire(run)


def parse_recipe(given: dict[str, Any] | str) -> Recipe:
    """Raises RecipeInvalid, and RecipeVaries for one with ranges or lists."""
    data = read_text(given) if isinstance(given, str) else given
    if is_sweep(data):
        raise RecipeVaries(
            "This recipe has several values of a setting or technique. Start a study of it, or name one."
        )
    return Recipe.read(data)


def ready(session: Session, table: type[Any], id_: str, field: str) -> Any:
    """The checkpoint or dataset of this id. Raises NotFound, or Conflict where it is not (yet) of use."""
    noun = table.__name__.lower()
    row = session.get(table, id_)
    if row is None:
        raise NotFound(f"There is no {noun} {id_[:40]}. It may have been deleted.", field)
    if row.state == UploadState.REFUSED:
        why = (row.reason or {}).get("message", "")
        raise Conflict(f"The {noun} {row.name} was refused and cannot be used: {why}", field)
    if row.state != UploadState.READY:
        raise Conflict(f"The {noun} {row.name} is still being inspected. Wait until it is ready.", field)
    return row


def named(dataset: Dataset | None) -> NamedDataset | None:
    return NamedDataset(dataset.name, DatasetFacts.model_validate(dataset.facts)) if dataset else None


def printable(name: str) -> str:
    return "".join(c for c in name if c.isprintable()).strip()


def run_name(checkpoint_name: str, recipe: Recipe) -> str:
    """ "digits.safetensors: Magnitude pruning 50 %, Weight quantization 8": what a list of runs shows."""
    words = []
    for step in recipe.steps:
        title = technique_title(step.technique)
        first = next(
            (v for v in step.settings.values() if isinstance(v, int | float) and not isinstance(v, bool)), None
        )
        words.append(f"{title} {first:g}" if first is not None else title)
    return f"{checkpoint_name}: {', '.join(words) or 'unchanged'}"[:200]
