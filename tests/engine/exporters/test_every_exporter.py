"""What every exporter promises: it says what it can, refuses with a sentence, and a clean process reads its files."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from webapp.actions.packages import TARGETS
from webapp.engine.errors import RecipeInvalid
from webapp.engine.exporters import check_formats, exporters, measured
from webapp.engine.facts import CheckpointFacts
from webapp.engine.run.proof import write_proof
from webapp.engine.weights import Composite, forms
from webapp.engine.weights.artifact import read_model, write_model
from webapp.serving import RUNTIME

EVERY = pytest.mark.parametrize("name", exporters())
EXACT = 1e-5  # of the largest answer: no weight is rounded on the way but as the format says
PROVING = """
import json, sys
from pathlib import Path
from webapp.engine.exporters import exporters
from webapp.engine.run.proof import compare_probe
from webapp.engine.weights.artifact import read_model
from webapp.engine.weights.safetensors import lazy_tensors
folder, told = Path(sys.argv[1]), {}
for name in sys.argv[2:]:
    form, given = exporters()[name], folder / name
    model = read_model(given / "state.safetensors")
    loaded = form.load(given / "out", model.architecture)
    proof = compare_probe(loaded, model.architecture, given, form.rounded(model) if form.can.rounds else None)
    largest = float(lazy_tensors(given / "probe.safetensors")["output.0"].load().abs().max())
    told[name] = {**proof, "largest": largest, "runtime": loaded.runtime, "loaded_by": loaded.loaded_by}
(folder / "told.json").write_text(json.dumps(told))
"""


def fitting(zoo, name, dtype="bfloat16"):
    """The family of the zoo that this format is tried on."""
    return next(f for f in ("mlp", "llama") if exporters()[name].refuses(zoo.checkpoint(f, dtype)[1]) is None)


@EVERY
def test_it_declares_what_forms_stages_and_documents_read(name):
    form = exporters()[name]
    assert form.name == name
    assert form.title
    assert form.summary.endswith(".")
    assert "." in form.file
    assert form.can.loads_in
    assert form.can.integers
    assert (measured() is form) == form.can.always
    assert form.can.served_by in {None, RUNTIME, *(target.runtime for target in TARGETS.values())}
    assert form.can.rounds == ("rounded" in vars(type(form))), "who rounds says how"
    assert not (form.can.original and not form.can.timed), "the original is written to be timed beside"


@EVERY
def test_it_refuses_with_a_sentence_what_it_cannot_hold(zoo, name):
    form = exporters()[name]
    about = {"format": "safetensors", "tensors": (), "layers": (), "weights_bytes": 1}
    weights_only = CheckpointFacts(**about, weights_only_because="Its architecture is not known.")
    facts = zoo.checkpoint(fitting(zoo, name))[1]
    if form.can.holds == "weights":
        check_formats(weights_only, [name])
    else:
        with pytest.raises(RecipeInvalid, match=rf"^{form.title} cannot be written\. .*Its architecture is not known"):
            check_formats(weights_only, [name])
    unwritable = facts.model_copy(update={"unwritable": {name: "It was tried."}})
    with pytest.raises(RecipeInvalid, match=r"cannot be written\. It was tried\.") as refused:
        check_formats(unwritable, [measured().name, name] if name != measured().name else ["onnx", name])
    assert refused.value.field == "exports.1"
    factors = [kind for kind, stored in forms().items() if issubclass(stored, Composite)]
    for kind in factors:
        if form.can.factors:
            check_formats(facts, [name], ["dense", kind])
        else:
            with pytest.raises(RecipeInvalid, match="leaves low-rank factors"):
                check_formats(facts, [name], ["dense", kind])


def test_a_name_that_is_none_is_refused_with_those_there_are(zoo):
    with pytest.raises(RecipeInvalid, match="There is no export 'keras'; there are safetensors, ") as refused:
        check_formats(zoo.checkpoint("mlp")[1], ["safetensors", "keras"])
    assert refused.value.field == "exports.1"


@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_clean_process_loads_what_it_wrote_and_answers_exactly(zoo, tmp_path, slow):
    """Of a checkpoint of bfloat16 whose layers are integers."""
    names = [name for name in exporters() if (name == "savedmodel") == slow]
    if slow and find_spec("tensorflow") is None:
        pytest.skip("tensorflow is not installed")
    for name in names:
        given = tmp_path / name
        (given / "out").mkdir(parents=True)
        model = zoo.model(fitting(zoo, name), "8 bits", "bfloat16")
        write_model(model, given / "state.safetensors")
        model = read_model(given / "state.safetensors")
        told = exporters()[name].write(model, given / "out")
        write_proof(model, given, seed=0)
        assert json.loads(json.dumps(told)) == told, "it goes onto the receipt"
        assert told["size_bytes"] == (given / "out" / exporters()[name].file).stat().st_size
        assert exporters()[name].arithmetic(told).endswith(".")
    subprocess.run([sys.executable, "-c", PROVING, tmp_path, *names], check=True)
    for name, proof in json.loads((tmp_path / "told.json").read_text()).items():
        assert proof["agreed"], proof
        assert proof["max_abs_difference"] < EXACT * proof["largest"], name
        assert proof["runtime"], name
        assert proof["loaded_by"], name
