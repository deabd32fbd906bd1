"""Which matrices write to a residual stream is told by what comes by, in whatever order a block norms and adds."""

import pytest

from webapp.engine.progress import Silent
from webapp.engine.techniques.calibration import CrossCovariance, calibration_blocks
from webapp.engine.techniques.calibration.residuals import residual_places
from webapp.engine.weights import Dense
from webapp.engine.weights.model import Model


def blocks(bench, tiny, folder, given_batches, name, family, **more):
    tiny(name, family, **more).save_pretrained(folder / "model")
    facts = bench.checkpoint(bench.zip_folder(folder / "model"))
    layers = [layer for layer in facts.layers if layer.kind == "linear"]
    data = given_batches(facts.architecture).batches
    return calibration_blocks(Model.of_checkpoint(bench.out, facts), layers, data, Silent(), originals=True)


@pytest.mark.parametrize(
    ("name", "family", "streams"),
    [
        ("LlamaForCausalLM", "llama", {"self_attn.o_proj": "", "mlp.down_proj": "post_attention_layernorm"}),
        ("GPT2LMHeadModel", "gpt2", {"attn.c_proj": "", "mlp.c_proj": "ln_2"}),
        ("BertModel", "bert", {"attention.output.dense": "", "output.dense": "attention.output.LayerNorm"}),
    ],
)
def test_the_stream_is_what_the_outputs_are_added_to(bench, tiny, tmp_path, given_batches, name, family, streams):
    block = next(block for block in blocks(bench, tiny, tmp_path, given_batches, name, family) if block.repeats)
    paths = [matrix.path.removeprefix(block.prefix) for matrix in block.matrices]
    found = residual_places(block.module, block.runs[0], paths)
    assert {path: place.path for path, place in found.items()} == streams
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in block.module.modules())


def test_what_the_stream_lacks_is_measured(bench, tiny, tmp_path, given_batches):
    """x^T (r0 - r): of the first block nothing, once the block's first half has changed something."""
    for number, block in enumerate(blocks(bench, tiny, tmp_path, given_batches, "LlamaForCausalLM", "llama")):
        if not block.repeats:
            continue
        for stage, statistics in block.staged(CrossCovariance):
            for matrix in stage:
                lack = statistics[matrix.path].lack
                writes = matrix.path.endswith(("o_proj", "down_proj"))
                assert (lack is not None) == writes
                if lack is not None:
                    changed = number > 0 or matrix.path.endswith("down_proj")
                    assert bool(lack.abs().max() > 0) == changed
                block.keep(matrix, Dense(matrix.shaped(0.5 * matrix.floats())))
