"""Every stored form reads back exactly, and its plan says to the byte what it stores."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.engine.math.grids import QuantizationScheme
from webapp.engine.weights import Dense, Encoded, Factored, Quantized, dtype_name, form_of

shapes = st.lists(st.integers(1, 17), min_size=2, max_size=2).map(tuple) | st.just((3, 2, 3, 3))
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


@st.composite
def weights(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(draw(shapes), generator=generator).to(draw(dtypes))
    weight[torch.rand(weight.shape, generator=generator) < draw(st.sampled_from([0.0, 0.03, 0.5, 1.0]))] = 0
    return weight


def read_back(encoded: Encoded) -> Encoded:
    parts, plan = encoded.parts(), encoded.plan
    stored = {name: (tuple(t.shape), dtype_name(t.dtype)) for name, t in parts.items()}
    assert stored == {p.name: (p.shape, p.dtype) for p in plan.parts}
    assert plan.bytes == sum(t.numel() * t.element_size() for t in parts.values())
    meta = plan.meta
    assert meta["kind"] == plan.kind
    return form_of(meta["kind"]).from_parts(parts, meta)


@settings(deadline=None, max_examples=60)
@given(weights(), st.booleans())
def test_dense_reads_back_bit_for_bit(weight, pruned):
    again = read_back(Dense(weight, zeros_wanted=pruned))
    assert torch.equal(again.decode(), weight)
    assert again.plan.nonzero == int((weight != 0).sum())


schemes = st.builds(
    QuantizationScheme,
    bits=st.sampled_from([8, 6, 5, 4, 3, 2]),
    group=st.sampled_from([0, 4, 16]),
    symmetric=st.booleans(),
    numbers=st.sampled_from(["int", "normal", "fitted"]),
    search=st.booleans(),
)


@settings(deadline=None, max_examples=120)
@given(weights(), schemes)
def test_quantized_reads_back_bit_for_bit_in_float32_and_keeps_zeros(weight, scheme):
    encoded = Quantized.nearest(weight, scheme)
    again = read_back(encoded)
    assert torch.equal(again.decode(), encoded.decode())
    assert again.plan == encoded.plan
    assert bool((encoded.decode()[weight == 0] == 0).all())
    assert encoded.decode().shape == weight.shape
    assert (encoded.decode().dtype, again.dtype) == (torch.float32, weight.dtype)


@settings(deadline=None, max_examples=60)
@given(weights(), st.sampled_from([8, 4]), st.booleans())
def test_error_of_rounding_is_at_most_half_a_step(weight, bits, symmetric):
    weight = weight.float()
    encoded = Quantized.nearest(weight, QuantizationScheme(bits, 0, symmetric))
    scale = encoded.grid.scale.float().abs().reshape(-1, *[1] * (weight.dim() - 1))
    # a scale is rounded to float16 (2^-11), which moves the outermost value by that share of the whole range
    bound = scale * (0.5 + 2**bits * 2**-11) + 1e-7
    assert bool(((encoded.decode() - weight).abs() <= bound).all())


@pytest.mark.parametrize("inner", [Dense, lambda t: Quantized.nearest(t, QuantizationScheme(4, 2))])
def test_factors_stay_apart_and_read_back(inner):
    left, right = torch.randn(7, 2), torch.randn(2, 5)
    encoded = Factored(inner(left), inner(right))
    again = read_back(encoded)
    assert isinstance(again, Factored)
    assert torch.equal(again.decode(), encoded.decode())
    assert again.plan.params == 7 * 2 + 2 * 5


def test_sparse_form_is_chosen_only_where_it_is_smaller():
    dense, sparse = torch.ones(100), torch.ones(100)
    dense[:3] = 0  # 3 values = 12 bytes saved, 13 bytes of mask
    sparse[:4] = 0
    assert Dense(dense, zeros_wanted=True).plan.kind == "dense"
    assert Dense(sparse, zeros_wanted=True).plan.kind == "sparse"
    assert Dense(sparse, zeros_wanted=True).plan.bytes == 96 * 4 + 13


def test_zeros_that_no_step_wanted_leave_the_tensor_to_every_reader():
    assert Dense(torch.zeros(100)).plan.plain


def test_extreme_rows_keep_their_values():
    weight = torch.tensor([[1e-30, -1e-30], [1e30, 5e29], [0.0, 0.0]])
    decoded = Quantized.nearest(weight, QuantizationScheme(8)).decode()
    assert torch.allclose(decoded, weight, rtol=0.01, atol=0)
