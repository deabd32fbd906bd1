"""An ONNX file answers in onnxruntime alone as the compressed model does, at any batch and length."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from webapp.engine.architectures.build import build
from webapp.engine.architectures.kv_cache import cache_inputs, empty_cache
from webapp.engine.data.batches import Batch, outputs
from webapp.engine.exporters import exporters

INT8 = ("weight_quantization", {"bits": 8})
FACTORS = ("low_rank", {"ratio": 0.5})


@pytest.fixture
def transformer(bench, tiny, tmp_path):
    def made(name, model_type):
        layers = {"n_layer" if model_type == "gpt2" else "num_hidden_layers": 1}
        tiny(name, model_type, **layers).save_pretrained(tmp_path / "model")
        facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
        return bench.out, facts

    return made


def written(model, folder):
    folder.mkdir(exist_ok=True)
    exporters()["onnx"].write(model, folder)
    return folder / "model.onnx"


def answered(path, inputs) -> torch.Tensor:
    """By onnxruntime, which knows nothing of Pare."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    known = {given.name for given in session.get_inputs()}
    given = {n: t.numpy() for n, t in inputs.items() if n in known}
    before = empty_cache(cache_inputs(session), len(next(iter(given.values()))))
    return torch.from_numpy(session.run(None, given | before)[0])


def tokens(batch, length):
    ids = torch.randint(0, 40, (batch, length), generator=torch.Generator().manual_seed(length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_a_network_answers_alike_at_every_batch(mlp, apply_steps, tmp_path):
    model, _ = apply_steps(mlp, FACTORS, INT8)
    path = written(model, tmp_path / "out")
    for batch in (1, 5):
        inputs = {"x": torch.randn(batch, 64)}
        with torch.inference_mode():
            assert torch.allclose(answered(path, inputs), build(model)(inputs["x"]), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("BertForSequenceClassification", "bert"),
        ("LlamaForCausalLM", "llama"),
        pytest.param("GPT2LMHeadModel", "gpt2", marks=pytest.mark.slow),
    ],
)
def test_a_transformer_answers_alike_at_other_lengths(transformer, apply_steps, tmp_path, name, model_type):
    checkpoint = transformer(name, model_type)
    model, _ = apply_steps(checkpoint, ("low_rank", {"ratio": 0.8}), INT8)
    path, module = written(model, tmp_path / "out"), build(model)
    for batch, length in ((1, 3), (4, 9)):
        inputs = tokens(batch, length)
        with torch.inference_mode():
            expected = outputs(module, model.architecture, Batch(inputs, None, batch))
        assert torch.allclose(answered(path, inputs), expected, atol=2e-4)


def test_8_bit_weights_are_8_bits_in_the_file(mlp, apply_steps, tmp_path):
    model, _ = apply_steps(mlp, INT8)
    path = written(model, tmp_path / "out")
    kinds = {onnx.TensorProto.INT8: 0, onnx.TensorProto.UINT8: 0}
    for tensor in onnx.load(path).graph.initializer:
        if tensor.data_type in kinds:
            kinds[tensor.data_type] += int(np.prod(tensor.dims))
    assert sum(kinds.values()) >= 64 * 48 + 480
    assert path.stat().st_size < 0.65 * 4 * (64 * 48 + 480)  # of its floats; the graph takes some


@pytest.mark.parametrize("technique", ["static_quantization", "dynamic_quantization"])
def test_integer_products_answer_near_the_original(mlp, apply_steps, given_batches, tmp_path, technique):
    data = given_batches(mlp[1].architecture, 8)
    model, outcomes = apply_steps(mlp, (technique, {}), data=data)
    path, x = written(model, tmp_path / "out"), data.batches[0].inputs["x"]
    nodes = {node.op_type for node in onnx.load(path).graph.node}
    assert nodes & {"QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul"}
    with torch.inference_mode():
        exact, simulated = build(apply_steps(mlp, INT8)[0])(x), build(model)(x)
    assert (simulated - exact).norm() < 0.1 * exact.norm()
    assert (answered(path, {"x": x}) - simulated).norm() < 0.05 * exact.norm()
    assert [outcome.layer for outcome in outcomes] == ["0", "2"]
