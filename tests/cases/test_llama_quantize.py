"""Every mixture has the types and the bytes that llama.cpp itself gives it, with and without an importance matrix."""

import subprocess
import sys
import typing
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from tests.engine.conftest import Bench
from tests.zoo import build_tiny
from webapp.engine.architectures.transformers_family import parsed_config
from webapp.engine.exporters import exporters
from webapp.engine.importers.gguf.names import interleaved, permuted_heads, their_name
from webapp.engine.techniques.ggml_quantization.mixtures import ALSO, GUIDED, Mixture, fitting, types_of
from webapp.engine.weights import GgmlBlocks
from webapp.engine.weights.model import Model

LIBRARIES = Path(sys.prefix) / "llama.cpp/package/bins/linux-x64"
MIXTURES = [name for name in typing.get_args(Mixture) if name not in ALSO and name != "MXFP4"]
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 9,
    "num_attention_heads": 8,
    "vocab_size": 64,
}
SHAPES = {
    "shared keys": {"num_key_value_heads": 2},
    "tied": {"num_key_value_heads": 8, "tie_word_embeddings": True},
    "rows of 320": {"hidden_size": 320, "num_key_value_heads": 2},
}

if not LIBRARIES.exists():
    pytest.skip("`make cases` brings llama.cpp's libraries", allow_module_level=True)


@pytest.fixture(params=SHAPES)
def model(request, tmp_path):
    """A tiny model of float16, which a GGUF file of 16-bit floats holds exactly; its facts, and that file."""
    module = build_tiny("LlamaForCausalLM", "llama", **{**SIZES, **SHAPES[request.param]}).to(torch.float16)
    module.save_pretrained(tmp_path / "model")
    bench = Bench(tmp_path)
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
    found = Model.of_checkpoint(bench.out, facts)
    exporters()["gguf"].write(found, tmp_path)
    return found, facts, tmp_path / "model.gguf"


@pytest.mark.parametrize("seen", [False, True], ids=["alone", "importance"])
def test_a_mixture_is_what_llama_cpp_makes_of_the_model(model, tmp_path, seen):
    found, facts, path = model
    config, drawn = parsed_config(facts.architecture.config), np.random.default_rng(0)
    inner = [layer for layer in facts.layers if ".layers." in layer.name] if seen else []
    known = {their_name(each.weight): np.exp(drawn.standard_normal(each.shape[1])).astype("f4") for each in inner}
    np.savez(tmp_path / "importance.npz", **known)
    mixtures = [name for name in MIXTURES if seen or name not in GUIDED]
    script, given = Path(__file__).with_name("quantize_with_llama_cpp.py"), tmp_path / "importance.npz" if seen else "-"
    command = [sys.executable, script, LIBRARIES, path, tmp_path, given, *mixtures]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    for mixture in mixtures:
        theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / f"{mixture}.gguf").tensors}
        types = types_of(facts, facts.layers, mixture, seen)
        for layer in facts.layers:
            name, kind = their_name(layer.weight), fitting(types[layer.name], layer.shape[1])
            weights = torch.from_numpy(known[name])[None] if name in known else None
            blocks = GgmlBlocks.nearest(found.weights[layer.weight].decode(), kind, importance=weights).blocks
            heads = permuted_heads(layer.weight, config)
            assert theirs[name].tensor_type.name == kind, (mixture, name)
            assert np.array_equal(theirs[name].data, interleaved(blocks, heads) if heads else blocks), (mixture, name)
