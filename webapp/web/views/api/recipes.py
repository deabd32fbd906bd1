"""Recipes before they run: parsed, matched against a checkpoint's layers, and predicted."""

from __future__ import annotations

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
        facts, recipe = asked(body)
        prediction = predict(facts, recipe).model_dump(mode="json")
    dataset, training = (
        named(ready(db.session, Dataset, id_, field)) if (id_ := getattr(body, field)) else None
        for field in ("dataset_id", "training_dataset_id")
    )
    if "dataset_id" in body.model_fields_set:
        lacking = dict(without_data(facts, recipe, dataset, training)).values()
        prediction["warnings"] = [*lacking, *prediction["warnings"]]
    return schemas.PredictAnswer(
        prediction=prediction,
        recipe=recipe.as_dict(),
        recipe_yaml=recipe.to_yaml(),
        matches=matches(facts, recipe),
        needs=needs(body, facts, recipe, dataset, training),
    )


@endpoint("POST", "/recipes/match", "Which layers each pattern matches, also when that is none", errors=(404, 409))
def match_recipe(body: schemas.PredictRequest) -> schemas.MatchesAnswer:
    facts, recipe = asked(body)
    return schemas.MatchesAnswer(matches=matches(facts, recipe), recipe_yaml=recipe.to_yaml())


@endpoint("POST", "/recipes/parse", "A recipe's text, read and written out whole")
def parse_recipe_text(body: schemas.ParseRequest) -> schemas.ParseAnswer:
    with lines_named(body.text):
        recipe = Recipe.parse(body.text)
    return schemas.ParseAnswer(recipe=recipe.as_dict(), recipe_yaml=recipe.to_yaml())


def asked(body: schemas.PredictRequest) -> tuple[CheckpointFacts, Recipe]:
    checkpoint = ready(db.session, Checkpoint, body.checkpoint_id, "checkpoint_id")
    return CheckpointFacts.model_validate(checkpoint.facts), parse_recipe(body.recipe)


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


def matches(facts: CheckpointFacts, recipe: Recipe) -> list[StepMatches]:
    return [match_layers(facts, step, position) for position, step in enumerate(recipe.steps)]
