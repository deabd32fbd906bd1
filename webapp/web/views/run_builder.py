"""The recipe builder: a form whose cards come from what the techniques declare."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.orm import load_only
from wtforms import SelectField

from webapp.actions.compatibility import architecture_only, first_choice, incompatible_datasets, incompatible_formats
from webapp.actions.continuing import run_to_continue, to_make_again
from webapp.actions.errors import RequestInvalid
from webapp.actions.run_requests import RunRequest, create_run
from webapp.actions.run_requests import ready as require_ready
from webapp.actions.studies import StudyRequest, start_study
from webapp.actions.sweeps import SweepAsked, with_pairs
from webapp.engine.data.preprocessing import Preprocessing, preprocessing_of
from webapp.engine.errors import PareError, PreprocessingInvalid
from webapp.engine.exporters import exporters as formats
from webapp.engine.facts import DatasetFacts
from webapp.engine.recipe import LayerPatterns, Recipe, Step, lines_named, read_text
from webapp.engine.run.sweep import is_sweep
from webapp.engine.techniques import techniques
from webapp.store.models import Checkpoint, Dataset, Profile, Run, Study, UploadState
from webapp.units import byte_text
from webapp.web.calls import MadeBy
from webapp.web.extensions import db, services
from webapp.web.forms import RunForm, setting_rows
from webapp.web.previews import seen_by_the_model
from webapp.web.tour import note_started

blueprint = Blueprint("run_builder", __name__, url_prefix="/runs/new")

NO_STEPS = '{"version": 2, "steps": []}'
NO_DATASET = "None: quality is not measured"


@dataclass(frozen=True)
class Preset:
    title: str
    summary: str
    recipe: Recipe


def recipe(*steps: tuple[str, dict[str, object]]) -> Recipe:
    return Recipe(
        steps=tuple(Step(technique=name, settings=settings, layers=LayerPatterns()) for name, settings in steps)
    )


HEALING = {"trains": "scales", "epochs": 2, "minutes": 3, "temperature": 1.0, "hard_weight": 0.0}
PRESETS = (
    Preset("8-bit weights", "A quarter of float32, next to no loss", recipe(("weight_quantization", {"bits": 8}))),
    Preset(
        "4-bit weights",
        "An eighth of float32, in groups of 64",
        recipe(("weight_quantization", {"bits": 4, "granularity": "group", "group_size": 64})),
    ),
    Preset("float16", "Half of float32, no loss to speak of", recipe(("cast", {"dtype": "float16"}))),
    Preset(
        "Prune half, 8-bit",
        "The smaller half of all weights removed, wherever they are; the rest in 8 bits",
        recipe(("magnitude_pruning", {"sparsity": 0.5, "scope": "global"}), ("weight_quantization", {"bits": 8})),
    ),
    Preset(
        "GPTQ, 4-bit",
        "An eighth of float32, rounded so that the answers change least; needs calibration data",
        recipe(("gptq", {"bits": 4, "granularity": "group", "group_size": 64})),
    ),
    Preset(
        "GPTQ, 2-bit, healed",
        "A twelfth of float32; scales, norms and biases are then taught by the original, for three minutes; needs data",
        recipe(("gptq", {"bits": 2, "granularity": "group", "group_size": 32}), ("distillation", HEALING)),
    ),
    Preset(
        "Prune, distil, 8-bit",
        "Half of the weights removed by SparseGPT, the rest taught by the original, then in 8 bits; needs data",
        recipe(("sparsegpt", {"sparsity": 0.5}), ("distillation", {"epochs": 1}), ("weight_quantization", {"bits": 8})),
    ),
    Preset(
        "Low rank, float16",
        "Matrices as two low-rank factors of half the parameters",
        recipe(("low_rank", {"by": "ratio", "ratio": 0.5}), ("cast", {"dtype": "float16"})),
    ),
)


@blueprint.get("")
def new() -> str:
    """`?checkpoint=ID` chooses it, `?dataset=ID` too; `?fork=RUN` starts with that run's recipe and data, and
    `?continue=RUN` goes on from what it delivered; `?study=ID` starts with a sweep's."""
    form = RunForm()
    if "study" in request.args:
        return again(form, db.get_or_abort(Study, request.args["study"]))
    source = db.get_or_abort(Run, request.args["fork"]) if "fork" in request.args else None
    earlier = db.get_or_abort(Run, request.args["continue"]) if "continue" in request.args else None
    offer(form)
    if earlier is not None:
        begin_as(form, run_to_continue(db.session, earlier.id))
        form.continued_from.data, form.recipe.data = earlier.id, NO_STEPS
        return page(form, earlier=earlier)
    if source is not None:
        begin_as(form, source)
        form.forked_from.data = source.id
        recipe = Recipe.model_validate(source.recipe)
    else:
        recipe = PRESETS[0].recipe
        form.checkpoint.data = chosen(form.checkpoint, Checkpoint) or next(iter(dict(form.checkpoint.choices)), "")
        first = first_choice(db.session, db.session.get(Checkpoint, form.checkpoint.data))
        form.dataset.data = chosen(form.dataset, Dataset) or (first.id if first else "")
    form.recipe.data = as_text(recipe)
    return page(form, source=source)


def begin_as(form: RunForm, run: Run) -> None:
    """Fills in what the run was made of."""
    form.checkpoint.data, form.dataset.data = run.checkpoint_id, run.dataset_id or ""
    form.training_dataset.data, form.seed.data = run.training_dataset_id or "", run.seed
    form.teacher_checkpoint.data = run.teacher_checkpoint_id or ""
    form.exports.data = [name for name in run.exports if name in dict(form.exports.choices)]
    form.preprocessing.data = json.dumps(run.preprocessing) if run.preprocessing else ""


def again(form: RunForm, study: Study) -> str:
    """The builder with a sweep's recipe and data. Raises RequestInvalid for a study of another kind."""
    if study.kind != "sweep":
        raise RequestInvalid("The recipes of this study come from a profile; open its budget instead.", "study")
    earlier = run_to_continue(db.session, id_) if (id_ := study.question["run_id"]) else None
    offer(form)
    form.continued_from.data = earlier.id if earlier else ""
    kept = study.question["run"]
    form.checkpoint.data, form.dataset.data = study.checkpoint_id, kept["dataset_id"] or ""
    form.training_dataset.data, form.seed.data = kept["training_dataset_id"] or "", kept["seed"]
    form.teacher_checkpoint.data = study.question["teacher_checkpoint_id"] or ""
    form.exports.data = [name for name in kept["exports"] if name in dict(form.exports.choices)]
    form.preprocessing.data = json.dumps(kept["preprocessing"]) if kept["preprocessing"] else ""
    form.recipe.data = json.dumps(with_pairs(study.question["recipes"][0]))
    return page(form, earlier=earlier)


def opened(profile: Profile, recipe: Recipe, exports: Iterable[str]) -> str:
    """The builder with a recipe that was made on a profile, and its data."""
    form = RunForm(formdata=None)
    offer(form)
    form.checkpoint.data, form.dataset.data = profile.checkpoint_id, profile.dataset_id or ""
    form.training_dataset.data, form.exports.data = profile.training_dataset_id or "", list(exports)
    form.recipe.data = as_text(recipe)
    return page(form)


def as_text(recipe: Recipe) -> str:
    return json.dumps({"version": recipe.version, "steps": [step.canonical() for step in recipe.steps]})


@blueprint.post("")
def start() -> ResponseReturnValue:
    form = RunForm()
    offer(form)
    source = db.session.get(Run, form.forked_from.data) if form.forked_from.data else None
    earlier = db.session.get(Run, form.continued_from.data) if form.continued_from.data else None
    if not form.validate():
        return page(form, source=source, earlier=earlier), 422
    exports, name, text = form.exports.data or [], form.name.data or None, form.recipe.data or ""
    try:
        shared: dict[str, Any] = {
            "checkpoint_id": None if form.continued_from.data else form.checkpoint.data,
            "run_id": form.continued_from.data or None,
            "dataset_id": form.dataset.data or None,
            "training_dataset_id": form.training_dataset.data or None,
            "teacher_checkpoint_id": form.teacher_checkpoint.data or None,
            "recipe": text,
            "seed": form.seed.data or 0,
            "preprocessing": asked_preprocessing(form.preprocessing.data),
        }
        with lines_named(text):
            if is_sweep(read_text(text)):
                request_ = StudyRequest(sweep=SweepAsked(**shared), exports=exports, name=name)
                study = start_study(db.session, services().jobs, request_)
                note_started(study)
                return redirect(url_for("studies.show", id=study.id))
            asked = RunRequest(**shared, exports=exports, name=name)
            run = create_run(db.session, services().jobs, asked, forked_from_id=source.id if source else None)
    except PareError as error:
        return page(form, error, source, earlier), error.status
    note_started(run)
    return redirect(url_for("runs.show", id=run.id))


@blueprint.get("/datasets")
def datasets() -> dict[str, Any]:
    """What fits `?checkpoint=ID`: {"datasets": {id: null or the reason why not}, "exports": {name: the same}}."""
    asked = request.args.get("checkpoint")
    return {"datasets": fit(asked), "exports": exports_fit(asked)}


@blueprint.get("/preprocessing")
def preprocessing() -> dict[str, Any]:
    """{"defaults", "samples", "error"} of `?checkpoint=ID&dataset=ID&preprocessing=JSON`.

    `samples` are images as the model will see them: prepared as the JSON says, else by the defaults, which are null
    where no dataset holds images.
    """
    checkpoint = db.session.get(Checkpoint, request.args.get("checkpoint", ""))
    ids = (request.args.get("dataset", ""), request.args.get("training_dataset", ""))
    datasets = [
        row for id_ in ids if (row := db.session.get(Dataset, id_)) and (row.facts or {}).get("kind") == "images"
    ]
    if not datasets or checkpoint is None or checkpoint.facts is None:
        return {"defaults": None}
    spec = architecture_only(checkpoint.facts).architecture
    given = [DatasetFacts.model_validate(row.facts) for row in datasets]
    try:
        if (defaults := preprocessing_of(spec, given, None)) is None:
            return {"defaults": None}
        told = {"defaults": defaults.model_dump(mode="json")}
    except PareError as error:
        return {"defaults": None, "error": error.message}
    try:
        prepared = preprocessing_of(spec, given, asked_preprocessing(request.args.get("preprocessing")))
    except PareError as error:
        return told | {"error": plain(error.message)}
    assert prepared is not None
    return told | {"samples": seen_by_the_model(services().files, datasets[0], prepared), "error": None}


def asked_preprocessing(text: str | None) -> dict[str, Any] | None:
    """What the form sent. Raises PreprocessingInvalid where it is no JSON object."""
    if not text:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise PreprocessingInvalid("The preprocessing is not a JSON object.", "preprocessing")
    return found


def offer(form: RunForm) -> None:
    """Fills in what can be chosen: whatever is ready, newest first."""
    checkpoints = db.session.scalars(ready(Checkpoint))
    form.checkpoint.choices = [(c.id, f"{c.name} · {byte_text(c.size_bytes)}") for c in checkpoints]
    form.teacher_checkpoint.choices = [("", "None: the original teaches"), *form.checkpoint.choices]
    rows = [(d.id, d.name) for d in db.session.scalars(ready(Dataset))]
    form.dataset.choices = [("", NO_DATASET), *rows]
    form.training_dataset.choices = [("", "None: the training split of the dataset"), *rows]
    form.exports.choices = [(name, form_.title) for name, form_ in formats().items() if not form_.can.always]


def chosen(field: SelectField, table: type[Any]) -> str | None:
    """What the address asks for of this table; None, with a message on the page, where that cannot be used."""
    if asked := request.args.get(field.name):
        try:
            return str(require_ready(db.session, table, asked, field.name).id)
        except PareError as error:
            flash(f"{error.message} Another {field.name} is chosen below.", "error")
    return None


def ready(table: Any) -> Any:
    columns = load_only(table.id, table.name, table.size_bytes)
    return select(table).options(columns).where(table.state == UploadState.READY).order_by(table.created_at.desc())


def fit(checkpoint_id: str | None) -> dict[str, str | None]:
    return incompatible_datasets(db.session, db.session.get(Checkpoint, checkpoint_id or ""))


def exports_fit(checkpoint_id: str | None) -> dict[str, str | None]:
    return incompatible_formats(db.session.get(Checkpoint, checkpoint_id or ""))


def page(form: RunForm, error: PareError | None = None, source: Run | None = None, earlier: Run | None = None) -> str:
    if error is not None and (field := (error.field or "").partition(".")[0].removesuffix("_id")) in form:
        form[field].errors = [*form[field].errors, error.message]
    known = techniques()
    before = Recipe.read(earlier.recipe).steps if earlier is not None else ()
    if earlier is not None:
        form.checkpoint.choices = [each for each in form.checkpoint.choices if each[0] == earlier.checkpoint_id]
    return render_template(
        "run_builder/new.html",
        form=form,
        source=source,
        earlier=earlier,
        steps_before=before,
        to_make_again=to_make_again(earlier, services().files) if earlier is not None else (),
        techniques=known,
        rows={name: setting_rows(technique.Settings) for name, technique in known.items()},
        presets=PRESETS,
        inspecting=db.session.scalars(select(Checkpoint).where(Checkpoint.state == UploadState.INSPECTING)).first(),
        fit=fit(form.checkpoint.data),
        formats=formats(),
        exports_fit=exports_fit(form.checkpoint.data),
        preparing=setting_rows(Preprocessing),
        made_by=MadeBy("/runs", asked_at_first(form, earlier)) if form.checkpoint.choices else None,
        error=shown(error, len(before)) if error else None,
    )


def asked_at_first(form: RunForm, earlier: Run | None) -> RunRequest:
    """What a program would send to start it; the script follows what is filled in."""
    start = {"run_id": earlier.id} if earlier is not None else {"checkpoint_id": form.checkpoint.data}
    text = form.recipe.data or NO_STEPS
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    recipe = told if isinstance(told, dict) else text  # text, which the API reads too
    return RunRequest(**start, dataset_id=form.dataset.data or None, recipe=recipe)


def shown(error: PareError, steps_before: int = 0) -> dict[str, str]:
    """The error, its field as a person would name it: "Step 1, sparsity: input should be …"."""
    return {**error.as_dict(), "message": plain(error.message, steps_before)}


def plain(message: str, steps_before: int = 0) -> str:
    message = re.sub(r"^`preprocessing\.(\w+)`", lambda m: m[1].capitalize(), message)
    where = r"^`steps\.(\d+)\.(?:settings\.|overrides\.(.+)\.)?([\w.]+)`"

    def step(number: str) -> str:
        return f"Step {steps_before + int(number) + 1}"

    return re.sub(where, lambda m: ", ".join(filter(None, (step(m[1]), m[2], m[3]))), message)
