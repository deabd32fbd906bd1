"""A module that reads its blocks when their turn comes answers as the one that is in memory as a whole."""

import pytest
import torch
import transformers

from tests.zoo import FORMS, checkpoint, model, seeded_batches
from webapp.engine.architectures import streaming
from webapp.engine.architectures.build import build
from webapp.engine.architectures.streaming import answered, runnable, streams
from webapp.engine.architectures.transformers_family import Transformers
from webapp.engine.data.batches import outputs, synthetic
from webapp.engine.progress import Silent
from webapp.engine.run.measure import evaluate
from webapp.engine.weights import Dense
from webapp.engine.weights.model import Model

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
KINDS = {
    "AlbertForMaskedLM": {"embedding_size": 16},
    "BertForMaskedLM": {},
    "BloomForCausalLM": {"n_layer": 3, "n_head": 4},
    "DebertaV2ForSequenceClassification": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "DistilBertForMaskedLM": {"dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4},
    "ElectraForMaskedLM": {"embedding_size": 16},
    "FalconForCausalLM": {},
    "Gemma3ForCausalLM": {"head_dim": 8},
    "GPTNeoXForCausalLM": {},
    "MambaForCausalLM": {"state_size": 4},
    "MixtralForCausalLM": {"num_local_experts": 4},
    "ModernBertForMaskedLM": {},
    "MPNetForMaskedLM": {},
    "OPTForCausalLM": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "Phi3ForCausalLM": {},
    "Qwen3ForCausalLM": {"head_dim": 8},
    "RobertaModel": {},
    "T5EncoderModel": {"d_model": 32, "d_ff": 48, "num_layers": 3, "num_heads": 4, "d_kv": 8},
    "Dinov2Model": {"image_size": 28, "patch_size": 14},
    "ViTForImageClassification": {"image_size": 16, "patch_size": 8},
}


@pytest.fixture
def nothing_fits(monkeypatch):
    monkeypatch.setattr(streaming, "WHOLE_BYTES", 0)
    monkeypatch.setattr(streaming, "LARGE_BYTES", 0)


def compare(given, batches):
    module, whole = runnable(given), build(given)
    calls = [lambda batch=batch: outputs(module, given.architecture, batch) for batch in batches]
    with torch.inference_mode():
        for batch, found in zip(batches, answered(calls, module), strict=True):
            torch.testing.assert_close(found, outputs(whole, given.architecture, batch), rtol=1e-5, atol=1e-5)
    return module


@pytest.mark.usefixtures("nothing_fits")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "vit"])
def test_it_answers_alike_in_every_form(family, form):
    given = model(family, form)
    assert streams(compare(given, seeded_batches(given.architecture).batches))


@pytest.mark.usefixtures("nothing_fits")
@pytest.mark.parametrize("name", KINDS)
def test_it_answers_alike_whatever_runs_the_blocks(name):
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    module = kind(kind.config_class(**{**SMALL, **KINDS[name]})).eval()
    config = {**module.config.to_dict(), "architectures": [name]}
    spec = Transformers.describe(config, ())
    tied = Transformers.ties(Transformers.skeleton(spec))
    state = {key: value for key, value in module.state_dict().items() if key not in tied}
    given = Model({key: Dense(value) for key, value in state.items()}, tied, spec)
    compare(given, [synthetic(spec, seed) for seed in range(3)])


@pytest.mark.usefixtures("nothing_fits")
def test_one_block_is_in_memory_at_a_time():
    given = model("llama", "8 bits")
    module = runnable(given)
    blocks = module.model.layers
    seen = []
    for block in blocks:
        block.register_forward_hook(lambda *_: seen.append([not next(b.parameters()).is_meta for b in blocks]))
    batches = seeded_batches(given.architecture).batches
    calls = [lambda batch=batch: outputs(module, given.architecture, batch) for batch in batches]
    list(answered(calls, module))
    assert seen
    assert all(sum(there) == 1 for there in seen)


@pytest.mark.usefixtures("nothing_fits")
def test_samples_that_wait_are_no_more_than_memory_takes(monkeypatch):
    monkeypatch.setattr(streaming, "WAITING_BYTES", 1)
    given = model("llama", "8 bits")
    compare(given, seeded_batches(given.architecture).batches)


@pytest.mark.usefixtures("nothing_fits")
def test_it_is_measured_as_the_whole_is():
    given, original = model("llama", "4 bits"), Model.of_checkpoint(*checkpoint("llama"))
    data = seeded_batches(given.architecture).batches
    found = evaluate(runnable(given), given.architecture, data, Silent(), runnable(original))
    expected = evaluate(build(given), given.architecture, data, Silent(), build(original))
    assert found[0].keys() == expected[0].keys()
    for metric, samples in expected[0].items():
        assert found[0][metric].sums == pytest.approx(samples.sums, rel=1e-4, abs=1e-6)
