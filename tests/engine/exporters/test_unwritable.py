"""What cannot be written is known before a run, from the graph alone."""

import pytest
import torch
from torch import nn

from tests.engine.importers.exported_program.exported import export
from tests.zoo import build_tiny
from webapp.engine.errors import RecipeInvalid
from webapp.engine.exporters import check_formats, unwritable
from webapp.engine.weights.originals import original_file
from webapp.engine.weights.safetensors import LazyTensor

GRAPHS = {"onnx", "program", "savedmodel"}


class Gated(nn.Module):
    """(B, 5, 8) to one of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


@pytest.fixture
def tried(bench):
    """Inspects an upload and tries its formats, as a worker does."""

    def trying(path):
        facts = bench.checkpoint(path)
        return facts.model_copy(update={"unwritable": unwritable(bench.out, facts)})

    return trying


def test_a_forward_that_looks_at_values_is_in_no_graph_and_still_in_the_others(tried, bench, tmp_path):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    build_tiny("LlamaForCausalLM", "llama", rope_scaling=rope).save_pretrained(tmp_path / "model")
    facts = tried(bench.zip_folder(tmp_path / "model"))
    assert set(facts.unwritable) == GRAPHS
    with pytest.raises(
        RecipeInvalid, match=r"ONNX cannot be written\. It cannot be traced: .* hangs on val"
    ) as refused:
        check_formats(facts, ["compressed_tensors", "onnx"])
    assert refused.value.field == "exports.1"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Constraints violated (sequence)! For more", "is made for one length of text"),
        ("Constraints violated (L['given'][0].size()[1])! For more", "is made for one length of text"),
        ("Constraints violated (L['given'][0].size()[0], L['given'][1].size()[1])!", "one number of samples"),
        ("Constraints violated (L['given'][0].size()[3])!\n - size()[0]", "one size of its input"),
        ("Could not guard on data-dependent expression u0 > 4", "hangs on values"),
        ("No ONNX function found for <OpOverload(op='aten.linalg_qr', overload='default')>", "aten.linalg_qr"),
        ("a sentence\nand more", "a sentence."),
    ],
)
def test_what_the_tracer_says_is_put_into_words(said, told):
    from webapp.engine.exporters.onnx.trace import Untraceable
    from webapp.engine.exporters.onnx.trace import told as explained

    with pytest.raises(Untraceable) as raised, explained():
        raise RuntimeError(said)
    assert told in f"{raised.value}."


def test_an_operator_that_tensorflow_lacks_is_named(tried, tmp_path, monkeypatch):
    monkeypatch.setattr("webapp.engine.exporters.savedmodel.find_spec", lambda name: name)  # it need not be there
    facts = tried(export(Gated(), (torch.randn(2, 5, 8),), tmp_path / "gru.pt2"))
    assert facts.unwritable == {"savedmodel": "TensorFlow has nothing here for GRU."}


def test_no_value_is_read(bench, tmp_path, monkeypatch):
    facts = bench.checkpoint(
        export(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), (torch.randn(2, 4),), tmp_path / "m.pt2")
    )

    def unreadable(folder):
        tensors, metadata = original_file(folder)
        return {n: LazyTensor(t.shape, t.dtype, lambda: pytest.fail("read")) for n, t in tensors.items()}, metadata

    monkeypatch.setattr("webapp.engine.weights.model.original_file", unreadable)
    assert unwritable(bench.out, facts) == {}


def test_of_layers_that_are_alike_a_few_are_traced():
    from webapp.engine.exporters.onnx.trial import make_shallow

    def block(width):
        return nn.ModuleList([nn.Linear(width, width)])

    rows = {(8, 8, 8, 8, 8): 2, (8, 8, 8, 4, 8, 4): 4, (8,): 1, (8, 4, 2): 3}
    for widths, left in rows.items():
        module = nn.Module()
        module.layers = nn.ModuleList(block(width) for width in widths)
        assert make_shallow(module) == len(widths) - left
        assert len(module.layers) == left


def test_layers_that_differ_in_a_setting_are_of_two_kinds():
    from webapp.engine.exporters.onnx.trial import make_shallow

    module = nn.Module()
    module.layers = nn.ModuleList(nn.Dropout(p) for p in (0.1, 0.1, 0.1, 0.5, 0.1))
    assert make_shallow(module) == 1
