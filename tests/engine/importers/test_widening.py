"""Numbers that nothing computes with come in as such that everything does, their scales applied."""

import json
import struct

import pytest
import torch
from torch import nn

from webapp.engine.architectures.build import build
from webapp.engine.data.batches import outputs, synthetic
from webapp.engine.importers.inspect import inspect_checkpoint
from webapp.engine.progress import Silent
from webapp.engine.weights.safetensors import write_safetensors

FLOATS = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu]
EIGHT = torch.float8_e4m3fn


def finite(dtype, *shape):
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.5
    return values.to(dtype)


def upload(bench, tensors, kind="safetensors"):
    if kind == "safetensors":
        write_safetensors(bench.root / "a.safetensors", tensors)
        return bench.root / "a.safetensors"
    return bench.save("a.pt", tensors)


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_float_of_8_bits_becomes_one_that_holds_it_exactly(bench, dtype, kind):
    weight = finite(dtype, 12, 8)
    facts = bench.checkpoint(upload(bench, {"0.weight": weight, "2.weight": torch.randn(4, 12)}, kind))
    assert facts.tensor("0.weight").dtype == "bfloat16"
    assert torch.equal(bench.tensors()["0.weight"].float(), weight.float())
    assert any(f"widened to numbers that can be computed with (1 of {str(dtype)[6:]})" in note for note in facts.notes)
    assert facts.architecture is not None


SCALES = {  # the weight is 256 × 160
    "for the tensor": lambda: torch.tensor(0.25),
    "for the tensor, as one of one": lambda: torch.tensor([0.25]),
    "for each row": lambda: torch.rand(256, 1) + 0.5,
    "for each row, flat": lambda: torch.rand(256) + 0.5,
    "for each block": lambda: torch.rand(2, 2) + 0.5,
    "for each row, in groups": lambda: torch.rand(256, 10) + 0.5,
    "for each row, as bfloat16": lambda: (torch.rand(256, 1) + 0.5).bfloat16(),
}


@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv", "scale_weight"])
@pytest.mark.parametrize("kind", SCALES)
def test_scales_that_stand_beside_are_applied(bench, kind, name):
    torch.manual_seed(0)
    weight, scale = torch.randn(256, 160).to(EIGHT), SCALES[kind]()
    wide = scale.float()
    if kind == "for each block":
        wide = wide.repeat_interleave(128, 0).repeat_interleave(128, 1)[:, :160]
    elif kind == "for each row, in groups":
        wide = wide.repeat_interleave(16, 1)
    elif wide.dim() == 1 and len(wide) > 1:
        wide = wide[:, None]
    tensors = {"a.weight": weight, f"a.{name}": scale, "a.input_scale": torch.tensor(1.0), "a.bias": torch.ones(256)}
    facts = bench.checkpoint(upload(bench, tensors))
    found = bench.tensors()
    assert set(found) == {"a.weight", "a.bias"}
    expected = (weight.float() * wide).to(torch.bfloat16 if scale.dtype == torch.bfloat16 else torch.float32)
    assert torch.equal(found["a.weight"], expected)
    assert any("1 of them times the scales" in note for note in facts.notes)


def test_stacked_matrices_have_a_scale_for_each_block(bench):
    weight, scale = torch.randn(3, 130, 128).to(EIGHT), torch.rand(3, 2, 1) + 0.5
    bench.checkpoint(upload(bench, {"experts.weight": weight, "experts.weight_scale_inv": scale}))
    wide = scale.repeat_interleave(128, 1)[:, :130]
    assert torch.equal(bench.tensors()["experts.weight"], weight.float() * wide)


def test_integers_of_8_bits_with_a_scale_are_floats_again(bench):
    weight, scale = torch.randint(-127, 127, (6, 8), dtype=torch.int8), torch.rand(6, 1) + 0.5
    bench.checkpoint(upload(bench, {"a.weight": weight, "a.weight_scale": scale}))
    assert torch.equal(bench.tensors()["a.weight"], weight.float() * scale)


@pytest.mark.parametrize(
    "scale", [torch.rand(5), torch.rand(7, 3), torch.rand(2, 2, 2), torch.ones(256, 1, dtype=torch.int32)]
)
def test_a_scale_that_does_not_fit_is_refused_with_both_shapes(bench, scale):
    said = bench.refusal(upload(bench, {"a.weight": torch.zeros(256, 160).to(EIGHT), "a.weight_scale": scale}))
    assert f"of shape {list(scale.shape)}; a.weight of [256, 160] takes one float" in said


@pytest.mark.parametrize(
    ("dtype", "wider"),
    [("uint16", "int32"), ("uint32", "int64"), ("uint64", "int64"), ("int8", "int8"), ("bool", "bool")],
)
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_whole_numbers_are_kept_or_widened(bench, dtype, wider, kind):
    numbers = torch.tensor([0, 1, 1]).to(getattr(torch, dtype))
    facts = bench.checkpoint(upload(bench, {"w": torch.ones(2, 2), "numbers": numbers}, kind))
    assert facts.tensor("numbers").dtype == wider
    assert bench.tensors()["numbers"].tolist() == [0, 1, 1]


def test_a_whole_number_that_is_too_large_is_refused(bench):
    tensors = {"w": torch.ones(2, 2), "n": torch.tensor([-1]).view(torch.uint64)}
    assert "n in a.safetensors holds whole numbers beyond 2^63" in bench.refusal(upload(bench, tensors))


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("F4", 1, "share bytes"),
        ("F6_E2M3", 3, "share bytes"),
        ("F6_E3M2", 3, "share bytes"),
        ("C64", 16, "complex numbers"),
    ],
)
def test_kinds_that_are_not_taken_apart_are_refused(bench, name, size, said):
    header = json.dumps({"w": {"dtype": name, "shape": [2], "data_offsets": [0, size]}}).encode()
    said_of = bench.refusal(bench.file("a.safetensors", struct.pack("<Q", len(header)) + header + b"\0" * size))
    assert f"w in a.safetensors is of dtype {name}, " in said_of
    assert said in said_of
    if name == "C64":
        said_of = bench.refusal(bench.save("a.pt", {"w": torch.ones(2, dtype=torch.complex64)}))
        assert "w in a.pt is a complex64 tensor" in said_of


def test_nan_in_a_float_of_8_bits_is_told(bench):
    weight = finite(EIGHT, 2, 2)
    weight[0, 0] = float("nan")
    assert "holds 1 NaN values of 4" in bench.refusal(upload(bench, {"w": weight}))


@pytest.mark.parametrize(
    "about",
    [{"quant_method": "fp8"}, {"quant_method": "fp8", "weight_block_size": [16, 16]}, {"quant_method": "fbgemm_fp8"}],
)
def test_a_folder_of_8_bit_floats_becomes_floats_on_request(bench, tiny, tmp_path, about):
    folder = tmp_path / "model"
    model = tiny("LlamaForCausalLM", "llama", hidden_size=32, intermediate_size=64, num_attention_heads=2)
    state, expected = {}, {}
    for name, value in model.state_dict().items():
        if name.endswith("_proj.weight"):
            scale = (
                torch.rand(value.shape[0] // 16, value.shape[1] // 16)
                if "weight_block_size" in about
                else torch.rand(1)
            )
            wide = scale.repeat_interleave(16, 0).repeat_interleave(16, 1) if scale.dim() > 1 else scale
            state[name], state[f"{name}_scale"] = value.to(EIGHT), scale
            expected[name] = value.to(EIGHT).float() * wide
        else:
            state[name] = value.bfloat16()
    model.save_pretrained(folder)
    write_safetensors(folder / "model.safetensors", state)
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": about, "dtype": "float8_e4m3fn"}
    (folder / "config.json").write_text(json.dumps(config))
    path = bench.zip_folder(folder)
    assert "?dequantize=1" in bench.refusal(path)
    facts = inspect_checkpoint(path, path.name, bench._out(), Silent(), dequantize=True)
    assert facts.architecture.title == "LlamaForCausalLM"
    found = bench.tensors()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_folder_of_plain_8_bit_floats_is_widened(bench, tiny, tmp_path):
    folder = tmp_path / "model"
    model = tiny("LlamaForCausalLM", "llama")
    model.save_pretrained(folder)
    write_safetensors(folder / "model.safetensors", {n: v.to(EIGHT) for n, v in model.state_dict().items()})
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert facts.dtypes.keys() == {"bfloat16"}
    assert facts.architecture.title == "LlamaForCausalLM"


def test_a_run_takes_what_was_widened(bench, apply_steps):
    mlp = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    state = {name: value.to(EIGHT) if name.endswith("weight") else value for name, value in mlp.state_dict().items()}
    facts = bench.checkpoint(upload(bench, state))
    model, outcomes = apply_steps((bench.out, facts), ("weight_quantization", {"bits": 8}))
    assert len(outcomes) == 2
    batch = synthetic(facts.architecture, 0)
    with torch.inference_mode():
        assert torch.isfinite(outputs(build(model), facts.architecture, batch)).all()


class Casting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.ones(4, 4).to(EIGHT))
        self.last = nn.Linear(4, 4)

    def forward(self, x):
        return self.last(x @ self.weight.float())


def test_a_program_of_8_bit_floats_gets_a_sentence(bench):
    program = torch.export.export(Casting().eval(), (torch.randn(2, 4),), dynamic_shapes=({0: torch.export.Dim("b")},))
    torch.export.save(program, bench.root / "a.pt2")
    assert "weight in a.pt2 is float8_e4m3fn, which its program cannot be computed with" in bench.refusal(
        bench.root / "a.pt2"
    )


@pytest.mark.parametrize(
    "kind", ["FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ", "INT4", "UINT4", "UINT16"]
)
def test_small_numbers_in_an_onnx_file_are_widened(bench, kind):
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper, save

    weight = helper.make_tensor("w", getattr(TensorProto, kind), [4, 4], np.ones(16).tolist())
    nodes = [helper.make_node("Cast", ["w"], ["f"], to=1), helper.make_node("MatMul", ["x", "f"], ["h"])]
    nodes.append(helper.make_node("MatMul", ["h", "v"], ["y"]))
    inputs, outputs = (helper.make_tensor_value_info(name, 1, ["n", 4]) for name in "xy")
    real = numpy_helper.from_array(np.ones((4, 4), np.float32), "v")
    graph = helper.make_graph(nodes, "g", [inputs], [outputs], [weight, real])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), bench.root / "a.onnx")
    facts = bench.checkpoint(bench.root / "a.onnx")
    assert facts.weights_only_because is None
    assert all(bool((t == 1).all()) for t in bench.tensors().values())
