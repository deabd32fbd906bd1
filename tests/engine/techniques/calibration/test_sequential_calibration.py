"""Block by block is the same as all at once, as long as nothing is changed; and what is changed is seen by the next."""

import pytest
import torch
from torch import nn

from tests.zoo import ENCODER
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import outputs, synthetic
from webapp.engine.progress import Silent
from webapp.engine.techniques.calibration import (
    Covariance,
    CrossCovariance,
    SquareSum,
    calibration_blocks,
    weight_matrices,
)
from webapp.engine.techniques.calibration.matrices import inputs_as_rows
from webapp.engine.weights import Dense
from webapp.engine.weights.model import Model

STAGES = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 2, 2], "num_heads": [1, 2, 2]}
FAMILIES = [
    ("SwinForImageClassification", "swin", {**STAGES, "window_size": 4}),
    ("Swinv2ForImageClassification", "swinv2", {**STAGES, "window_size": 4}),
    ("ConvNextForImageClassification", "convnext", {"hidden_sizes": [8, 16, 24], "depths": [1, 2, 1], "num_stages": 3}),
    ("BertModel", "bert", {}),
    ("BertForSequenceClassification", "bert", {}),
    ("RobertaModel", "roberta", {}),
    ("GPT2LMHeadModel", "gpt2", {}),
    ("LlamaForCausalLM", "llama", {}),
    ("ViTForImageClassification", "vit", {}),
    ("DebertaV2Model", "deberta-v2", {**ENCODER, "vocab_size": 40, "relative_attention": True}),
    ("T5EncoderModel", "t5", {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_kv": 8, "d_ff": 24, "vocab_size": 40}),
]


def of(bench, tiny, tmp_path, name, model_type, changes=None):
    tiny(name, model_type, **(changes or {})).save_pretrained(tmp_path / "model")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
    return Model.of_checkpoint(bench.out, facts), facts


def layers_of(facts):
    return [layer for layer in facts.layers if layer.kind in ("linear", "conv")]


def seen_by_the_whole(model, matrices, data):
    """Every matrix's inputs in plain forward passes of the whole module."""
    module, found = build(model), {matrix.path: [] for matrix in matrices}
    for matrix in matrices:
        part = module.get_submodule(matrix.path)
        part.register_forward_pre_hook(lambda _, args, path=matrix.path: found[path].append(args[0].detach().clone()))
    for batch in data:
        outputs(module, model.architecture, batch)
    return found


@pytest.mark.parametrize(("name", "model_type", "changes"), FAMILIES, ids=[name for name, *_ in FAMILIES])
def test_every_layer_sees_what_it_sees_in_the_whole_model(bench, tiny, tmp_path, name, model_type, changes):
    model, facts = of(bench, tiny, tmp_path, name, model_type, changes)
    data = [synthetic(model.architecture, seed) for seed in range(2)]
    expected = seen_by_the_whole(model, weight_matrices(model, layers_of(facts), build(model)), data)
    met = []
    for block in calibration_blocks(model, layers_of(facts), data, Silent(), originals=True):
        for stage in block.stages():
            kept = block.collect(stage, CrossCovariance)
            for matrix in stage:
                met.append(matrix.path)
                for index in range(2):
                    ((_, x),) = block.inputs([matrix], index)
                    assert torch.allclose(x, expected[matrix.path][index], atol=1e-5)
                assert float(kept[matrix.path].drift.abs().max()) < 1e-4  # nothing has changed yet
    assert sorted(met) == sorted(layer.name for layer in layers_of(facts))


def test_the_next_block_is_calibrated_on_what_the_changed_one_puts_out(bench, tiny, tmp_path):
    model, facts = of(bench, tiny, tmp_path, "LlamaForCausalLM", "llama")
    data = [synthetic(model.architecture, 0)]
    for block in calibration_blocks(model, layers_of(facts), data, Silent()):
        if block.name == "model.layers.0":
            for matrix in block.matrices:
                block.keep(matrix, Dense(torch.zeros(matrix.encoded.shape)))
        if block.name == "model.layers.1":
            (first,) = block.stages()[0][:1]
            ((_, x),) = block.inputs([first], 0)
    embedded = seen_by_the_whole(model, [first], data)[first.path][0]
    assert torch.allclose(x, embedded, atol=1e-5)


def test_layers_with_the_same_input_are_one_stage_and_share_a_statistic(bench, tiny, tmp_path):
    model, facts = of(bench, tiny, tmp_path, "LlamaForCausalLM", "llama")
    block = next(iter(calibration_blocks(model, layers_of(facts), [synthetic(model.architecture, 0)], Silent())))
    stages = [[matrix.path.rpartition(".")[2] for matrix in stage] for stage in block.stages()]
    assert stages == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    kept = block.collect(block.stages()[0], Covariance)
    assert len({id(statistic) for statistic in kept.values()}) == 1


def test_only_the_block_at_hand_is_in_memory(bench, tiny, tmp_path):
    model, facts = of(bench, tiny, tmp_path, "LlamaForCausalLM", "llama")
    layers = [layer for layer in layers_of(facts) if "layers." in layer.name]
    for block in calibration_blocks(model, layers, [synthetic(model.architecture, 0)], Silent()):
        assert not any(p.is_meta for p in block.module.parameters())
    assert all(p.is_meta for p in block.module.parameters())


@pytest.mark.parametrize("groups", [1, 2])
def test_rows_of_a_convolution_are_its_patches(groups):
    conv = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=groups, bias=False)
    x = torch.randn(2, 4, 7, 5)
    rows = inputs_as_rows(conv, x, groups, None)
    matrix = conv.weight.reshape(groups, 6 // groups, -1)
    product = torch.einsum("ngc,goc->ngo", rows, matrix).reshape(2, -1, 6).transpose(1, 2)
    assert torch.allclose(product, conv(x).flatten(2), atol=1e-5)


def test_padding_is_no_input():
    x, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 0, 0]])
    rows = inputs_as_rows(nn.Linear(4, 4), x, 1, mask)
    assert torch.equal(rows[:, 0], torch.stack([x[0, 0], x[0, 1], x[1, 0]]))


def test_statistics_add_up():
    rows = torch.randn(50, 1, 5)
    covariance, squares = Covariance(1, 5), SquareSum(1, 5)
    for part in rows.split(20):
        covariance.add(part)
        squares.add(part)
    assert torch.allclose(covariance.mean[0], rows[:, 0].t() @ rows[:, 0] / 50, atol=1e-5)
    assert torch.allclose(squares.sums[0], rows[:, 0].square().sum(0), atol=1e-4)
    assert covariance.count == 50
