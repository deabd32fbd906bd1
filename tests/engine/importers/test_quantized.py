"""A folder that is quantized already is said to be so; on request its weights are floats again, exactly the rounded."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from webapp.engine.architectures.build import build
from webapp.engine.data.batches import outputs, synthetic
from webapp.engine.errors import CheckpointRefused
from webapp.engine.importers.inspect import inspect_checkpoint
from webapp.engine.progress import Silent
from webapp.engine.weights.model import Model

LINEAR = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")


@pytest.fixture
def folder(tmp_path, tiny):
    model = tiny("LlamaForCausalLM", "llama", hidden_size=32, intermediate_size=64, num_attention_heads=2)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder, change, quantization):
    """`change` maps a linear layer's weight to the tensors in its place, by their own names."""
    kept, rounded = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        path = name.removesuffix(".weight")
        if path.endswith(LINEAR):
            parts, rounded[name] = change(tensor)
            kept |= {f"{path}.{own}": part.contiguous() for own, part in parts.items()}
        else:
            kept[name] = tensor
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    return rounded


def by_library(form, **args):
    """(the change, the quantization_config) as compressed-tensors itself writes them."""
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args), format=form)
    bits, group = args["num_bits"], args.get("group_size")
    largest = 448.0 if args.get("type") == "float" else 2 ** (bits - 1) - 1

    def change(weight):
        blocks = weight.view(weight.shape[0], -1, group or weight.shape[1])
        scale = blocks.abs().amax(-1).clamp(min=1e-6) / largest
        kind = BaseCompressor.get_value_from_registry(form)
        parts = kind.compress({"weight": weight, "weight_scale": scale}, scheme)
        if args.get("type") == "float":
            rounded = (weight / scale).to(torch.float8_e4m3fn).float() * scale
        else:
            rounded = ((blocks / scale[..., None]).round().clamp(-largest - 1, largest) * scale[..., None]).view_as(
                weight
            )
        return parts, rounded

    about = {"group_0": scheme.model_dump(mode="json")}
    return change, {"quant_method": "compressed-tensors", "format": form, "config_groups": about, "ignore": ["lm_head"]}


FORMS = {
    "4 bits in groups": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 16}),
    "8 bits packed": ("pack-quantized", {"num_bits": 8, "strategy": "channel"}),
    "8 bits": ("int-quantized", {"num_bits": 8, "strategy": "channel"}),
    "fp8": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
}


def asked(bench, path):
    return inspect_checkpoint(path, path.name, bench._out(), Silent(), dequantize=True)


@pytest.mark.parametrize("form", FORMS)
def test_compressed_tensors_are_floats_again_on_request(bench, folder, tiny, form):
    kind, args = FORMS[form]
    rounded = rewrite(folder, *by_library(kind, **args))
    path = bench.zip_folder(folder)
    if form == "fp8":
        assert "quantized already (quantization_config: compressed-tensors)" in bench.refusal(path)
        assert "?dequantize=1" in bench.refusal(path)
    facts = asked(bench, path)
    found = bench.tensors()
    assert rounded
    for name, expected in rounded.items():
        assert torch.allclose(found[name], expected, atol=1e-6), name
    assert any(f"{len(rounded)} weights were dequantized" in note for note in facts.notes)
    assert not any("scale" in name or "packed" in name for name in found)
    config = json.loads((bench.out / "config.json").read_text())
    assert "quantization_config" not in config
    model = tiny("LlamaForCausalLM", "llama", hidden_size=32, intermediate_size=64, num_attention_heads=2)
    model.load_state_dict(rounded, strict=False)
    batch = synthetic(facts.architecture, 0)
    with torch.inference_mode():
        ours = outputs(build(Model.of_checkpoint(bench.out, facts)), facts.architecture, batch)
        assert torch.allclose(ours, outputs(model, facts.architecture, batch), atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("form", [form for form in FORMS if form != "fp8"])
def test_integers_stay_as_they_are_where_floats_are_not_asked_for(bench, folder, form, prefix):
    kind, args = FORMS[form]
    rounded = rewrite(folder, *by_library(kind, **args))
    if prefix:  # saved without it: the names are those of the base model
        held = load_file(folder / "model.safetensors")
        save_file({name.removeprefix(prefix): each for name, each in held.items()}, folder / "model.safetensors")
    facts = bench.checkpoint(bench.zip_folder(folder))
    model = Model.of_checkpoint(bench.out, facts)
    assert rounded
    for name, expected in rounded.items():
        plan = model.plan(name)
        assert (plan.kind, plan.bits, plan.group) == ("quantized", args["num_bits"], args.get("group_size", 0)), name
        assert torch.allclose(model.weight(name).decode(), expected, atol=1e-6), name
        assert facts.tensor(name).stored is not None
    assert any(f"{len(rounded)} weights stay in the integers" in note for note in facts.notes)
    assert "quantization_config" not in json.loads((bench.out / "config.json").read_text())
    assert facts.architecture.title == "LlamaForCausalLM"


def test_integers_of_a_layer_that_are_beyond_their_bits_are_refused(bench, folder):
    rewrite(folder, *by_library(*FORMS["8 bits"][:1], **FORMS["8 bits"][1]))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    assert "has integers beyond 4 bits" in bench.refusal(bench.zip_folder(folder))


def test_floats_of_8_bits_with_a_scale_per_block_are_floats_again(bench, folder):
    def change(weight):
        rows, columns = -(-weight.shape[0] // 24), -(-weight.shape[1] // 24)
        scale = torch.rand(rows, columns) + 0.5
        wide = scale.repeat_interleave(24, 0).repeat_interleave(24, 1)[: weight.shape[0], : weight.shape[1]]
        small = (weight / wide).to(torch.float8_e4m3fn)
        return {"weight": small, "weight_scale_inv": scale}, small.float() * wide

    rounded = rewrite(folder, change, {"quant_method": "fp8", "weight_block_size": [24, 24]})
    asked(bench, bench.zip_folder(folder))
    found = bench.tensors()
    assert all(torch.equal(found[name], expected) for name, expected in rounded.items())


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "hqq"])
def test_other_forms_are_refused_with_the_way_out(bench, folder, method):
    rewrite(folder, lambda weight: ({"qweight": weight.int()}, weight), {"quant_method": method, "bits": 4})
    path = bench.zip_folder(folder)
    with pytest.raises(CheckpointRefused, match=f"{method}.*does not turn back; upload the weights it was made from"):
        asked(bench, path)


def test_a_shape_that_the_packed_bytes_do_not_have_is_refused(bench, folder):
    change, about = by_library("pack-quantized", num_bits=4, strategy="channel")

    def lying(weight):
        parts, rounded = change(weight)
        return parts | {"weight_shape": torch.tensor([1_000_000, 1_000_000])}, rounded

    rewrite(folder, lying, about)
    with pytest.raises(CheckpointRefused, match=r"weight_packed in model\.zip has shape"):
        asked(bench, bench.zip_folder(folder))


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"format": "marlin-24"}, "is quantized as .marlin-24.; Pare turns back pack-quantized"),
        ({"config_groups": {"a": 5}}, "is not one of compressed-tensors"),
        ({"sparsity_config": {"format": "sparse-bitmask"}}, "sparse or rotated as well"),
    ],
)
def test_a_config_that_is_not_known_gets_its_sentence(bench, folder, about, said):
    change, quantization = by_library("pack-quantized", num_bits=4, strategy="channel")
    for group in quantization["config_groups"].values():
        group["format"] = None
    rewrite(folder, change, quantization | about)
    with pytest.raises(CheckpointRefused, match=said):
        asked(bench, bench.zip_folder(folder))
