"""Blocks of llama.cpp's formats: what its own code makes, read back by gguf-py; nothing of what it is given ends it."""

import gguf
import pytest
import torch

from webapp.engine.math import ggml
from webapp.engine.weights import GgmlBlocks

ALIKE = ("Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1", "MXFP4")  # that gguf-py writes too
SIZES = [0.0, 1e-30, 1e-7, 1e-3, 1.0, 6e4, 1e6, 1e30, float("inf"), float("nan")]


def drawn(rows=6, columns=512, seed=0):
    return 0.02 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_the_table_of_types_is_that_of_the_format():
    for name, kind in ggml.TYPES.items():
        assert (kind.size, kind.bytes) == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]], name
    bits = [kind.bits for kind in ggml.TYPES.values()]
    assert bits == sorted(bits, reverse=True)


@pytest.mark.parametrize("name", ggml.TYPES)
def test_more_bits_err_less_and_parts_of_the_rows_change_nothing(name, monkeypatch):
    values, some = drawn(), torch.rand(512) + 0.5
    blocks = ggml.quantized(values, name, some)
    whole = ggml.dequantized(blocks, name)
    assert blocks.shape == (6, ggml.TYPES[name].row_bytes(512))
    error = float((whole - values).norm() / values.norm())
    assert 0.5 * 2 ** -ggml.TYPES[name].bits < error < 2.5 * 2 ** -ggml.TYPES[name].bits
    monkeypatch.setattr(ggml, "AT_A_TIME", 1024)
    monkeypatch.setattr(ggml, "SHARE", 1024)
    assert torch.equal(ggml.quantized(values, name, some), blocks)
    assert torch.equal(ggml.dequantized(blocks, name), whole)


@pytest.mark.parametrize("name", ALIKE)
def test_it_is_what_gguf_py_writes_without_importance(name):
    values = drawn()
    expected = gguf.quantize(values.numpy(), gguf.GGMLQuantizationType[name])
    assert torch.equal(ggml.quantized(values, name), torch.from_numpy(expected))


@pytest.mark.parametrize("name", [name for name in ggml.TYPES if name not in ("Q8_0", "MXFP4")])
def test_inputs_that_matter_are_kept_better(name):
    values, importance = drawn(), torch.exp(2 * torch.randn(512, generator=torch.Generator().manual_seed(1)))

    def error(weights):
        found = ggml.dequantized(ggml.quantized(values, name, weights), name)
        return float(((found - values).square() * importance).sum())

    assert error(importance) < 0.95 * error(torch.ones(512))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ggml.TYPES)
def test_values_of_any_size_are_held_or_refused(name, size):
    """llama.cpp itself aborts the process on some of them."""
    values = size * 50 * drawn(2) if size < float("inf") else torch.full((2, 512), size)
    importance = torch.where(torch.arange(512) < 256, 0.0, 1.0)  # a whole block that no sample moved
    if not (size == 0 or 1e-3 <= size <= 1):
        with pytest.raises(ValueError, match=f"the scales of {name} are float16"):
            ggml.quantized(values, name, importance)
        return
    found = ggml.dequantized(ggml.quantized(values, name, importance), name)
    assert bool(found.isfinite().all())
    assert float((found - values).norm()) <= 0.7 * float(values.norm())


@pytest.mark.parametrize("name", [name for name, kind in ggml.TYPES.items() if kind.guided])
def test_types_that_need_importance_take_all_alike_without(name):
    """llama.cpp itself aborts the process on some of them."""
    values = drawn()
    assert torch.equal(ggml.quantized(values, name), ggml.quantized(values, name, torch.ones(512)))
    stored = GgmlBlocks.nearest(values, name)
    moved = values.clone()
    moved[2:] += 0.01
    again = stored.with_values(torch.cat([stored.decode()[:2], moved[2:]]))
    assert torch.equal(again.blocks[:2], stored.blocks[:2])
    assert torch.equal(again.blocks[2:], ggml.quantized(moved[2:], name))


def test_importance_that_tells_nothing_weighs_all_alike():
    values = drawn()
    expected = ggml.quantized(values, "Q4_K", torch.ones(512))
    for nothing in (torch.zeros(512), torch.full((512,), float("nan"))):
        assert torch.equal(ggml.quantized(values, "Q4_K", nothing), expected)


def test_several_threads_decode_within_inference_mode_too():
    made = ggml.quantized(torch.randn(4096, 1056), "Q8_0")  # so many that threads share them
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            inside = ggml.dequantized(made, "Q8_0")
        assert torch.equal(inside, ggml.dequantized(made, "Q8_0"))
    finally:
        torch.set_num_threads(threads)
