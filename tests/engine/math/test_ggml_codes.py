"""Codes and scales of llama.cpp's blocks, taken apart and put together: what gguf-py decodes is what the grid says."""

import pytest
import torch

from webapp.engine.math import ggml, ggml_codes, gptq, quantizers
from webapp.engine.techniques.ggml_quantization.compensation import compensated


def drawn(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def valued(codes, grid, low):
    values = quantizers.dequantize(codes, grid)
    return values if low is None else values - grid.across(low, codes.shape[1])


@pytest.mark.parametrize("name", ggml_codes.BITS)
def test_blocks_are_their_grid_and_codes(name):
    made = ggml.quantized(drawn(6, 512), name)
    grid, low = ggml_codes.grid_of(made, name)
    stored = ggml.dequantized(made, name)
    codes = quantizers.quantize(stored if low is None else stored + grid.across(low, 512), grid)
    assert torch.equal(valued(codes, grid, low), stored)
    assert torch.equal(ggml_codes.with_codes(made, name, codes), made)


@pytest.mark.parametrize("name", ggml_codes.BITS)
def test_other_codes_and_scales_are_decoded_as_they_were_put_in(name):
    made = ggml.quantized(drawn(6, 512), name)
    grid, low = ggml_codes.grid_of(made, name)
    codes = torch.randint(0, grid.top + 1, (6, 512), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    again = ggml_codes.with_codes(made, name, codes)
    assert torch.allclose(ggml.dequantized(again, name), valued(codes, grid, low), rtol=0, atol=1e-6)
    if name in ggml_codes.FREE:
        scale = (drawn(6, 16, 2) + 3).half()
        again = ggml_codes.with_codes(made, name, codes, scale)
        grid, _ = ggml_codes.grid_of(again, name)
        assert torch.equal(grid.scale, scale.float())


@pytest.mark.parametrize("name", ggml_codes.BITS)
def test_a_block_of_zeros_has_a_grid_too(name):
    grid, low = ggml_codes.grid_of(ggml.quantized(torch.zeros(2, 256), name), name)
    codes = quantizers.quantize(torch.zeros(2, 256), grid)
    assert float(valued(codes, grid, low).abs().max()) < 1e-20


@pytest.mark.parametrize("name", ggml_codes.BITS)
def test_compensated_blocks_err_less_than_llama_cpp_s_own_on_the_same_inputs(name):
    mixing = drawn(512, 512, 3) / 512**0.5 + 0.3 * torch.eye(512)
    inputs = drawn(4096, 512, 4) @ mixing
    covariance = inputs.t() @ inputs / len(inputs)
    weight = drawn(48, 512, 5) * 0.05
    given = gptq.problem(weight, covariance, 0.01, act_order=True)
    own = ggml.dequantized(ggml.quantized(weight, name, covariance.diagonal()), name)
    ours = ggml.dequantized(compensated(given, covariance.diagonal(), name), name)
    errors = [float((inputs @ (found - weight).t()).square().mean()) for found in (own, ours)]
    assert errors[1] < 0.8 * errors[0]
