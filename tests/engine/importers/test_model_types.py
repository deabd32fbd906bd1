"""Model types of transformers, tiny and random: inspected, pruned, quantized, and proven; all of them in tests/cases.

Each folder is written by transformers itself. What the run answers with is compared by the stages' own proof.
"""

import pytest
import torch

from tests.engine.importers.model_types import checkpoint_of, runs_and_is_proven
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import Batch, outputs, synthetic
from webapp.engine.errors import RecipeInvalid
from webapp.engine.exporters import exporters
from webapp.engine.weights.model import Model

QUICK = (
    "BertForTokenClassification",
    "BertForMaskedLM",
    "MPNetModel",
    "DebertaV2ForSequenceClassification",
    "Gemma2ForCausalLM",
    "MixtralForCausalLM",
    "ResNetForImageClassification",
)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of the libraries, on the way through their own models
@pytest.mark.parametrize("name", QUICK)
def test_it_is_inspected_pruned_quantized_judged_and_proven(bench, name):
    runs_and_is_proven(name, bench)


def test_padding_is_no_token_that_is_judged(bench):
    """Rows padded to the longest count as many tokens as they have, alone or together."""
    from webapp.engine.progress import Silent
    from webapp.engine.run.measure import evaluate

    (folder, facts), _ = checkpoint_of("BertForTokenClassification", bench)
    module = build(Model.of_checkpoint(folder, facts))
    other = build(Model.of_checkpoint(folder, facts))
    with torch.no_grad():
        other.classifier.weight.neg_()
    ids = torch.tensor([[4, 6, 8, 0, 0], [4, 6, 8, 10, 5]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    together = [Batch({"input_ids": ids, "attention_mask": mask}, None, 2)]
    alone = [together[0].first(1), Batch({"input_ids": ids[1:]}, None, 1)]
    scores = [evaluate(other, facts.architecture, data, Silent(), reference=module)[0] for data in (together, alone)]
    assert [score["kl_divergence"].n for score in scores] == [8, 8]
    values = [score["kl_divergence"].value("kl_divergence") for score in scores]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert values[0] > 1e-4


def test_the_experts_of_a_mixture_are_layers_one_matrix_each(bench):
    (_, facts), _ = checkpoint_of("MixtralForCausalLM", bench)
    stacks = [layer for layer in facts.layers if layer.kind == "experts"]
    assert {(layer.shape, layer.groups) for layer in stacks} == {((4, 48, 16), 4), ((4, 16, 24), 4)}
    assert not any("stack" in note for note in facts.notes)


@pytest.mark.parametrize(
    ("name", "technique"),
    [
        ("ConvNextForImageClassification", "layer_drop"),
        ("ResNetForImageClassification", "layer_drop"),
        ("ResNetForImageClassification", "structured_pruning"),
    ],
)
def test_an_image_network_whose_config_cannot_tell_is_left_whole_with_a_sentence(bench, apply_steps, name, technique):
    found, _ = checkpoint_of(name, bench)
    with pytest.raises(RecipeInvalid, match=r"that can be cut|not a row of transformer blocks"):
        apply_steps(found, (technique, {}))


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("name", ["ViTForImageClassification", "ResNetForImageClassification"])
def test_an_image_classifier_answers_alike_in_onnxruntime(bench, apply_steps, tmp_path, name):
    found, _ = checkpoint_of(name, bench)
    steps = [("weight_quantization", {"bits": 8})]
    if name.startswith("ViT"):
        steps.insert(0, ("structured_pruning", {"ratio": 0.5, "round_to": 4}))
    model, _ = apply_steps(found, *steps)
    folder, spec, batch = tmp_path / "onnx", model.architecture, synthetic(found[1].architecture, 1)
    folder.mkdir()
    exporters()["onnx"].write(model, folder)
    with torch.inference_mode():
        there = outputs(exporters()["onnx"].load(folder, spec).module, spec, batch)
        here = outputs(build(model), spec, batch)
    assert torch.allclose(there, here, atol=1e-4)
