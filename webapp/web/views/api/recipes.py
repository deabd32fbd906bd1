"""Recipes before they run: parsed, matched against a checkpoint's layers, and predicted."""

from __future__ import annotations

from webapp.actions.continuing import counted_from, joined, run_to_continue
from webapp.actions.run_requests import named, parse_recipe, ready
from webapp.engine.errors import PareError
from webapp.engine.facts import CheckpointFacts
from webapp.engine.recipe import Recipe, lines_named
from webapp.engine.run.checks import NamedDataset, task_of, without_data
from webapp.engine.run.footprint import RunFootprint, footprint, shapes_of
from webapp.engine.run.predict import StepMatches, match_layers, predict
from webapp.engine.run.stages import RunGiven
from webapp.store.models import Checkpoint, Dataset
from webapp.web.extensions import db

from . import schemas
from .endpoints import endpoint


@endpoint(
    "POST",
    "/recipes/predict",
    "What a recipe will give, and which layers its patterns match",
    errors=(404, 409),
    example="""--json '{"checkpoint_id": "ID", "recipe": {"version": 2, "steps": [{"technique": "cast"}]}}'""",
)
def predict_recipe(body: schemas.PredictRequest) -> schemas.PredictAnswer:
    with lines_named(body.recipe):
        facts, whole, recipe = asked(body)
        with counted_from(len(whole.steps) - len(recipe.steps)):
            prediction = predict(facts, whole).model_dump(mode="json")
    dataset, training = (
        named(ready(db.session, Dataset, id_, field)) if (id_ := getattr(body, field)) else None
        for field in ("dataset_id", "training_dataset_id")
    )
    if "dataset_id" in body.model_fields_set:
        lacking = dict(without_data(facts, whole, dataset, training)).values()
        prediction["warnings"] = [*lacking, *prediction["warnings"]]
    return schemas.PredictAnswer(
        prediction=prediction,
        recipe=recipe.as_dict(),
        recipe_yaml=recipe.to_yaml(),
        matches=matches(facts, whole, recipe),
        needs=needs(body, facts, whole, dataset, training),
    )


@endpoint("POST", "/recipes/match", "Which layers each pattern matches, also when that is none", errors=(404, 409))
def match_recipe(body: schemas.PredictRequest) -> schemas.MatchesAnswer:
    facts, whole, recipe = asked(body)
    return schemas.MatchesAnswer(matches=matches(facts, whole, recipe), recipe_yaml=recipe.to_yaml())


@endpoint("POST", "/recipes/parse", "A recipe's text, read and written out whole")
def parse_recipe_text(body: schemas.ParseRequest) -> schemas.ParseAnswer:
    with lines_named(body.text):
        recipe = Recipe.parse(body.text)
    return schemas.ParseAnswer(recipe=recipe.as_dict(), recipe_yaml=recipe.to_yaml())


def asked(body: schemas.PredictRequest) -> tuple[CheckpointFacts, Recipe, Recipe]:
    """The checkpoint's facts; the whole recipe, and what of it was sent: without the steps of a run that goes on."""
    recipe = parse_recipe(body.recipe)
    if body.run_id is not None:
        run = run_to_continue(db.session, body.run_id)
        return CheckpointFacts.model_validate(run.checkpoint.facts), joined(run, recipe), recipe
    checkpoint = ready(db.session, Checkpoint, body.checkpoint_id or "", "checkpoint_id")
    return CheckpointFacts.model_validate(checkpoint.facts), recipe, recipe


def needs(
    body: schemas.PredictRequest,
    facts: CheckpointFacts,
    recipe: Recipe,
    dataset: NamedDataset | None,
    training: NamedDataset | None,
) -> RunFootprint | None:
    """None where something of what is asked does not fit, which starting the run says."""
    teacher = body.teacher_checkpoint_id and ready(
        db.session, Checkpoint, body.teacher_checkpoint_id, "teacher_checkpoint_id"
    )
    try:
        asked = RunGiven(recipe=recipe, exports=tuple(body.exports), task=task_of(facts, dataset, training))
        data = (one and one.facts for one in (dataset, training))
        taught = CheckpointFacts.model_validate(teacher.facts) if teacher else None
        return footprint(asked, shapes_of(asked, facts, *data, taught))
    except PareError:
        return None


def matches(facts: CheckpointFacts, whole: Recipe, recipe: Recipe) -> list[StepMatches]:
    """Of the steps that were sent, the last of the whole."""
    found = [match_layers(facts, step, position) for position, step in enumerate(whole.steps)]
    return found[-len(recipe.steps) :]
