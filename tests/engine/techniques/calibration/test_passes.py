"""Passes that stop at each layer see what fresh passes up to it would: to the last bit, and what comes out too."""

import pytest
import torch

from webapp.engine.progress import Silent
from webapp.engine.techniques.calibration import CrossCovariance, calibration_blocks
from webapp.engine.weights import Dense
from webapp.engine.weights.model import Model


def halved(block, matrix):
    values = matrix.floats()
    block.keep(matrix, Dense(matrix.shaped(values * (values.abs() > values.abs().median())), zeros_wanted=True))


def seen(folder, facts, data, originals, staged):
    """What every matrix was given while those before it were pruned."""
    found = {}
    layers = [layer for layer in facts.layers if layer.kind == "linear"]
    for block in calibration_blocks(Model.of_checkpoint(folder, facts), layers, data, Silent(), originals=originals):
        fresh = ((stage, block.collect(stage, CrossCovariance)) for stage in block.stages())
        for stage, statistics in block.staged(CrossCovariance) if staged else fresh:
            for matrix in stage:
                found[matrix.path] = torch.cat([statistics[matrix.path].sums, statistics[matrix.path].drift])
                halved(block, matrix)
    return found


@pytest.mark.parametrize("originals", [False, True])
@pytest.mark.parametrize(
    ("name", "family"), [("LlamaForCausalLM", "llama"), ("GPT2LMHeadModel", "gpt2"), ("BertModel", "bert")]
)
def test_one_pass_sees_what_many_would(bench, tiny, tmp_path, given_batches, name, family, originals):
    tiny(name, family).save_pretrained(tmp_path / "model")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
    data = given_batches(facts.architecture).batches
    once, often = (seen(bench.out, facts, data, originals, staged) for staged in (True, False))
    assert once.keys() == often.keys()
    assert all(torch.equal(once[path], often[path]) for path in often)


def test_what_is_stopped_halfway_leaves_nothing_behind(bench, tiny, tmp_path, given_batches):
    tiny("LlamaForCausalLM", "llama").save_pretrained(tmp_path / "model")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
    data, layers = given_batches(facts.architecture).batches, [la for la in facts.layers if la.kind == "linear"]
    block = next(calibration_blocks(Model.of_checkpoint(bench.out, facts), layers, data, Silent()))
    stages = block.staged(CrossCovariance)
    next(stages)
    stages.close()
    assert not any(part._forward_pre_hooks for part in block.module.modules())
    assert torch.equal(block.leave()[0][0], block.outputs(0))
