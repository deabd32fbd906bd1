"""A file that Pare made comes back, and is what it was: the same bytes, forms and architecture, ready for more."""

import json
import re

import pytest
import torch

from tests import zoo
from tests.engine.architectures import torchvision_shapes
from tests.engine.architectures.test_torchvision_runs import GIVEN as TORCHVISION
from tests.engine.techniques.test_structured_pruning import RESNET
from webapp.engine.architectures.build import build
from webapp.engine.architectures.resnet import ResNetModule
from webapp.engine.data.batches import synthetic
from webapp.engine.data.tasks import with_task
from webapp.engine.errors import ProfileUnfit, RecipeInvalid
from webapp.engine.exporters import exporters
from webapp.engine.facts import CheckpointFacts
from webapp.engine.recipe import Recipe
from webapp.engine.run.checks import check_profile
from webapp.engine.run.predict import plans_of, predict
from webapp.engine.techniques.surgery import with_structure
from webapp.engine.weights.artifact import read_model, write_model
from webapp.engine.weights.described import described, plan_of
from webapp.engine.weights.model import Model
from webapp.engine.weights.safetensors import opened_file, write_safetensors

DTYPES = ("float32", "bfloat16")
CUT = {
    "cut": [("structured_pruning", {"ratio": 0.5})],
    "integer products": [("static_quantization", {})],
    "dynamic": [("dynamic_quantization", {})],
}
COMPOSED = {
    "cut, low rank, 8 bits": [*CUT["cut"], ("low_rank", {"ratio": 0.5}), zoo.quantized(8)],
    "pivoted": [("low_rank", {"ratio": 0.5, "form": "pivots"})],
}
FORMS = zoo.FORMS | CUT | COMPOSED


def made(family, form, dtype):
    """The file that such a recipe leaves, and the checkpoint that it was made from."""
    given = zoo.checkpoint(family, dtype)

    def build(folder):
        model, _ = zoo.apply_steps(given, *FORMS[form], data=zoo.seeded_batches(given[1].architecture))
        write_model(model, folder / "model.safetensors")

    return zoo.once(f"{family} {dtype}, {form}, again", build) / "model.safetensors", given


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["mlp", "cnn", "bert", "llama"])
def test_it_is_what_it_was(bench, family, form, dtype):
    if (family, form) in {("mlp", "cut, low rank, 8 bits")}:
        pytest.skip("what is left of 48 neurons is too small for factors")
    path, (_, before) = made(family, form, dtype)
    facts = CheckpointFacts.model_validate_json(bench.checkpoint(path).model_dump_json())
    assert (bench.out / "model.safetensors").read_bytes() == path.read_bytes()
    was, now = read_model(path), Model.of_checkpoint(bench.out, facts)
    assert facts.architecture is not None, facts.weights_only_because
    assert facts.architecture.family == before.architecture.family
    titles = [re.sub(r"\d+-[\d-]+", "", spec.title) for spec in (facts.architecture, was.architecture)]
    assert titles[0] == titles[1]  # but for the widths, of which some may be cut
    assert facts.architecture.task == was.architecture.task
    assert facts.architecture.guess == was.architecture.guess
    assert (now.tied, now.activations) == (was.tied, was.activations)
    assert now.weights.plans == was.weights.plans == plans_of(facts)
    for name in was.weights:
        assert torch.equal(now.weight(name).decode(), was.weight(name).decode()), name
    assert facts.weights_bytes == path.stat().st_size
    assert sum(tensor.bytes for tensor in facts.tensors) == was.bytes
    assert predict(facts, Recipe.read({"steps": [{"technique": "cast"}]})).before.size_bytes == path.stat().st_size


WRITTEN = [  # exporter, family, form: what of its weights is in a stored form afterwards
    ("gguf", "llama", "8 bits", {"dense", "ggml"}),
    ("gguf", "llama", "Q4_0", {"dense", "ggml"}),
    ("gguf", "llama", "bfloat16", {"dense"}),
    ("compressed_tensors", "llama", "8 bits", {"dense", "quantized"}),
    ("compressed_tensors", "llama", "4 bits", {"dense", "quantized"}),
    ("compressed_tensors", "llama", "4 bits, zero points", {"dense", "quantized"}),
    ("compressed_tensors", "bert", "3 bits", {"dense", "quantized"}),
    ("compressed_tensors", "bert", "pruned", {"dense"}),
    ("onnx", "cnn", "dense", {"dense"}),
    ("onnx", "cnn", "pruned", {"dense", "sparse"}),
    ("onnx", "mlp", "4 bits, zero points", {"dense", "quantized"}),
    ("onnx", "llama", "bfloat16", {"dense"}),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("exporter", "family", "form", "kinds"), WRITTEN)
def test_what_else_pare_writes_comes_back_with_the_values_that_it_holds(bench, exporter, family, form, kinds, dtype):
    folder, _ = zoo.written(exporter, family, form, dtype)
    was, path = zoo.model(family, form, dtype), folder / exporters()[exporter].file
    facts = bench.checkpoint(path)
    now = Model.of_checkpoint(bench.out, facts)
    assert facts.architecture is not None
    assert {plan.kind for plan in now.weights.plans.values()} == kinds
    held = 0
    for name in was.weights:
        expected, found = was.weight(name).decode().float(), now.weight(name).decode().float()
        stored = was.plan(name).kind not in ("dense", "sparse")
        if stored and now.plan(name).kind in ("dense", "sparse"):  # a float of half precision in that format
            assert torch.allclose(found, expected, rtol=2**-8), name
        else:
            held += 1
            assert torch.equal(found, expected), name
    assert held
    assert predict(facts, Recipe.read({"steps": [{"technique": "cast"}]})).before.size_bytes == facts.weights_bytes


@pytest.mark.parametrize("form", FORMS)
def test_a_further_step_does_to_it_what_it_does_to_the_run_that_made_it(bench, form):
    path, _ = made("cnn", form, "float32")
    facts = bench.checkpoint(path)
    given = bench.out, facts
    for step in (("cast", {"dtype": "float16"}), ("magnitude_pruning", {"sparsity": 0.75}), zoo.quantized(4)):
        goes_on = [*FORMS[form], step]
        try:
            predict(zoo.checkpoint("cnn")[1], Recipe.read({"steps": [_asked(each) for each in goes_on]}))
        except RecipeInvalid as refused:
            with pytest.raises(RecipeInvalid, match=refused.message.split(":")[-1].strip().rstrip(".")[:40]):
                predict(facts, Recipe.read({"steps": [_asked(step)]}))
            continue
        original = zoo.checkpoint("cnn")
        expected, _ = zoo.apply_steps(original, *goes_on, data=zoo.seeded_batches(original[1].architecture))
        found, _ = zoo.apply_steps(given, step)
        assert found.weights.plans == expected.weights.plans
        for name in expected.weights:
            assert torch.equal(found.weight(name).decode(), expected.weight(name).decode()), (step[0], name)
        told = predict(facts, Recipe.read({"steps": [_asked(step)]}))
        size = write_model(found, bench.root / "found.safetensors")
        assert abs(told.after.size_bytes - size) <= (0 if told.exact else size)


def _asked(step):
    name, settings, *_ = step
    return {"technique": name, "settings": settings}


@pytest.fixture
def folder(tmp_path):
    """What a run of a text classifier delivers: the weights in 8 bits, and what goes with them."""
    path, (files, _) = made("bert", "8 bits", "bfloat16")
    place = tmp_path / "delivered"
    place.mkdir()
    (place / "model.safetensors").write_bytes(path.read_bytes())
    for each in files.iterdir():
        if each.is_file() and each.suffix != ".safetensors":
            (place / each.name).write_bytes(each.read_bytes())
    return place


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_with_what_went_with_them_are_a_folder(bench, folder, zipped):
    facts = bench.checkpoint(bench.zip_folder(folder) if zipped else folder, in_place=not zipped)
    was = read_model(folder / "model.safetensors")
    assert facts.architecture.inputs["tokenizer"] is True
    assert facts.architecture.title == "BertForSequenceClassification"
    now = Model.of_checkpoint(bench.out, facts)
    assert now.weights.plans == was.weights.plans
    for name in was.weights:
        assert torch.equal(now.weight(name).decode(), was.weight(name).decode()), name


def test_a_file_that_lies_on_the_machine_is_used_where_it_is(bench, tmp_path):
    path, _ = made("mlp", "pruned, 4 bits", "float32")
    (tmp_path / "again.safetensors").write_bytes(path.read_bytes())
    facts = bench.checkpoint(tmp_path / "again.safetensors", in_place=True)
    assert not (bench.out / "model.safetensors").exists()
    assert Model.of_checkpoint(bench.out, facts).weights.plans == read_model(path).weights.plans


def test_what_its_owner_said_it_is_for_stays(bench, tmp_path):
    folder, facts = zoo.checkpoint("mlp", "float32")
    model, _ = zoo.apply_steps((folder, with_task(facts, "embedding")), zoo.quantized(8))
    write_model(model, tmp_path / "embeds.safetensors")
    spec = bench.checkpoint(tmp_path / "embeds.safetensors").architecture
    assert (spec.task, spec.set_by_owner, spec.told_task) == ("embedding", True, None)


def test_factors_are_not_profiled_and_what_else_is_stored_may_be(bench):
    with pytest.raises(ProfileUnfit, match="came as low-rank factors"):
        check_profile(bench.checkpoint(made("mlp", "low rank, 8 bits", "float32")[0]), None, None)
    with pytest.raises(ProfileUnfit, match="choose a dataset"):
        check_profile(bench.checkpoint(made("mlp", "pruned, 4 bits", "float32")[0]), None, None)


@pytest.mark.parametrize("form", FORMS)
def test_a_plan_survives_as_json(form):
    path, _ = made("cnn", form, "float32")
    for name, plan in read_model(path).weights.plans.items():
        assert plan_of(json.loads(json.dumps(described(plan)))) == plan, name


def test_a_file_that_was_only_cast_is_a_checkpoint_like_any_other(bench):
    path, _ = made("mlp", "bfloat16", "float32")
    facts = bench.checkpoint(path)
    assert set(facts.dtypes) == {"bfloat16"}
    assert not any(tensor.stored for tensor in facts.tensors)
    assert not any("made by Pare" in note for note in facts.notes)


def changed(tmp_path, change, form="4 bits"):
    """The file with its manifest, and its tensors, changed."""
    metadata, tensors = opened_file(made("mlp", form, "float32")[0])
    content, held = json.loads(metadata["pare"]), {name: tensor.load() for name, tensor in tensors.items()}
    change(content, held)
    write_safetensors(tmp_path / "bad.safetensors", held, {"format": "pt", "pare": json.dumps(content)})
    return tmp_path / "bad.safetensors"


NAME = "0.weight"


def _claim_more(content, held):
    content["weights"][NAME]["shape"] = [2**20, 2**20]


def _claim_no_shape(content, held):
    content["weights"][NAME]["shape"] = "wide"


def _cut_codes(content, held):
    held[f"{NAME}.codes"] = held[f"{NAME}.codes"][:-8].clone()


def _lose_scales(content, held):
    del held[f"{NAME}.scale"]


def _unknown_form(content, held):
    content["weights"][NAME]["kind"] = "compressed_somehow"


def _no_form(content, held):
    content["weights"][NAME] = 3


def _break_scale(content, held):
    held[f"{NAME}.scale"][0] = float("nan")


def _no_rows(content, held):
    held[f"{NAME}.scale"] = held[f"{NAME}.scale"][:0].clone()


def _twice(content, held):
    held[NAME] = torch.zeros(48, 64)


def _tie(content, held):
    content["tied"] = {"other.weight": "nowhere.weight"}


def _other_version(content, held):
    content["format"] = 99


def _activations(content, held):
    content["activations"] = {"nowhere": {"by": "token"}}


def _odd_activations(content, held):
    content["activations"] = {"0": {"by": "magic"}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_claim_more, "claims more values than its"),
        (_claim_no_shape, "claims more values than its"),
        (_cut_codes, "0.weight in bad.safetensors is damaged"),
        (_lose_scales, "0.weight in bad.safetensors is damaged"),
        (_unknown_form, "a form that this version of Pare does not know"),
        (_no_form, "0.weight in bad.safetensors is damaged"),
        (_break_scale, "not finite"),
        (_no_rows, "0.weight in bad.safetensors is damaged"),
        (_twice, "holds 0.weight twice"),
        (_tie, "which are not two names of one tensor"),
        (_other_version, "has format 99 of Pare"),
        (_activations, "'nowhere', which is no layer"),
        (_odd_activations, "has metadata of Pare that cannot be read"),
    ],
)
def test_what_its_metadata_says_is_not_believed(bench, tmp_path, change, says):
    assert says in bench.refusal(changed(tmp_path, change))


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', "{}", '{"weights": 3}'])
def test_metadata_of_that_name_that_is_nobody_s_is_left_aside(bench, tmp_path, text):
    _, tensors = opened_file(made("mlp", "dense", "float32")[0])
    write_safetensors(tmp_path / "other.safetensors", tensors, {"pare": text})
    facts = bench.checkpoint(tmp_path / "other.safetensors")
    assert facts.architecture is not None
    assert Model.of_checkpoint(bench.out, facts).weights.keys() == tensors.keys()


NETWORKS = {"resnet": lambda: ResNetModule(RESNET)} | {
    name: lambda given=given: torchvision_shapes.state(given()) for name, given in TORCHVISION.items()
}


@pytest.mark.parametrize("steps", [CUT["cut"], [*CUT["cut"], ("low_rank", {"ratio": 0.5}), zoo.quantized(4)]], ids=len)
@pytest.mark.parametrize("family", NETWORKS)
def test_a_network_whose_channels_were_cut_is_recognised(bench, inspected, tmp_path, family, steps):
    torch.manual_seed(0)
    folder, facts = inspected(NETWORKS[family](), family)
    model, _ = zoo.apply_steps((folder, with_structure(facts)), *steps)
    write_model(model, tmp_path / "cut.safetensors")
    found = bench.checkpoint(tmp_path / "cut.safetensors")
    assert found.architecture is not None, found.weights_only_because
    assert found.architecture.family == facts.architecture.family
    now, was = Model.of_checkpoint(bench.out, found), read_model(tmp_path / "cut.safetensors")
    assert now.weights.plans == was.weights.plans
    assert with_structure(found).structure.groups
    x = synthetic(found.architecture, 0).inputs["x"]
    with torch.inference_mode():
        assert torch.equal(build(now)(x), build(was)(x))


@pytest.mark.parametrize(
    "wrong",
    [
        {"blocks": [9] * 4},
        {"base": 10**9},
        {"blocks": [10**4] * 2000},
        {"base": "wide"},
        {"kernel": None},
        {"classes": 6},
    ],
)
def test_what_is_told_of_a_network_is_held_against_its_tensors(bench, inspected, tmp_path, wrong):
    folder, facts = inspected(ResNetModule(RESNET), "resnet")
    model, _ = zoo.apply_steps((folder, with_structure(facts)), *CUT["cut"])
    write_model(model, tmp_path / "cut.safetensors")
    metadata, tensors = opened_file(tmp_path / "cut.safetensors")
    content = json.loads(metadata["pare"])
    content["architecture"]["config"] |= wrong
    write_safetensors(tmp_path / "bad.safetensors", tensors, {"pare": json.dumps(content)})
    assert "resnet" in bench.refusal(tmp_path / "bad.safetensors").lower()
