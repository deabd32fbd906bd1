"""What every technique promises, on every form of storage: a sentence that refuses it, or a file as predicted."""

import typing

import pytest
import torch

from tests.engine.techniques.training.lessons import blobs, one_thread
from tests.zoo import FORMS, seeded_batches
from webapp.engine.architectures.build import build
from webapp.engine.architectures.reshape import describe_model
from webapp.engine.data.batches import outputs, synthetic
from webapp.engine.errors import RecipeInvalid
from webapp.engine.facts import LayerKind
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict, prepare_step
from webapp.engine.techniques import Context, Need, needs_of, techniques
from webapp.engine.techniques.calibration import TechniqueData
from webapp.engine.techniques.surgery import with_structure
from webapp.engine.weights.artifact import read_model, write_model

OF_BLOCKS = ("layer_drop", "smaller_student")  # that cut what a chain of layers does not have
SOME = ("dense", "4 bits", "low rank", "pruned")
QUICK = {"epochs": 1, "batch_size": 16, "precision": "float32"}  # of those that train


def settings_of(name):
    return {key: value for key, value in QUICK.items() if key in techniques()[name].Settings.model_fields}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", techniques())
def test_on_every_form_it_is_refused_or_the_file_is_as_predicted(zoo, tmp_path, name, dtype):
    family, forms, refused = ("llama", SOME, []) if name in OF_BLOCKS else ("mlp", FORMS, [])
    facts = with_structure(zoo.checkpoint(family, dtype)[1])
    spec = facts.architecture
    data = TechniqueData(blobs(48), spec, None) if family == "mlp" else seeded_batches(spec)
    for form in forms:
        steps = [{"technique": step[0], "settings": step[1]} for step in FORMS[form]]
        recipe = Recipe.read({"steps": [*steps, {"technique": name, "settings": settings_of(name)}]})
        try:
            told = predict(facts, recipe)
        except RecipeInvalid as error:
            refused.append(error.message)
            continue
        model = zoo.model(family, form, dtype)
        now = describe_model(model, facts)
        step = prepare_step(now, recipe.steps[-1], len(steps))
        context = Context(step.layers, 0, Silent(), data, tmp_path / form, lambda: zoo.model(family, dtype=dtype), now)
        with one_thread():
            outcomes = step.technique.apply(model, step.settings, context)
        assert sorted(each.layer for each in outcomes) == sorted({each.layer for each in outcomes}), form
        assert all(each.ok or each.note for each in outcomes), f"{form}: it fell short and does not say why"
        path = tmp_path / "model.safetensors"
        size = write_model(model, path)
        if told.exact:
            assert size == told.after.size_bytes, form
        else:
            assert size == pytest.approx(told.after.size_bytes, rel=0.15), form
        x = synthetic(spec, 1)
        with torch.no_grad():
            there, here = (outputs(build(each), each.architecture, x) for each in (read_model(path), model))
        assert torch.equal(there, here), f"{form}: the file answers otherwise than the model in memory"
    assert all(sentence.endswith(".") for sentence in refused), refused
    assert len(refused) < len(forms) - 1, "it is refused nearly everywhere"


@pytest.mark.parametrize("name", techniques())
def test_it_declares_what_forms_checks_and_documents_read(name):
    technique = techniques()[name]
    assert name == technique.name
    assert technique.title
    assert technique.summary.endswith(".")
    assert technique.paper.startswith("https://")
    assert technique.version >= 1
    assert technique.family != "Other", "the form offers it under a heading"
    assert set() < technique.layers <= set(typing.get_args(LayerKind))
    assert technique.needs <= set(typing.get_args(Need))
    assert {need.removesuffix("_if_any") for need in needs_of(name, {})} <= technique.needs | {"calibration"}
    for field, about in technique.Settings.model_json_schema()["properties"].items():
        assert about["title"], field
        assert about["description"].endswith((".", ")")), field
        assert "default" in about, f"{field} has no default"
        if about.get("type") in ("integer", "number"):
            assert {"minimum", "exclusiveMinimum", "enum"} & set(about), f"{field} has no lower bound"
    with pytest.raises(ValueError, match="extra"):
        technique.Settings(surely_no_setting=1)
