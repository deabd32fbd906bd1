"""Activations on 8-bit grids, held against the definitions of the operators that a runtime has for them."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from webapp.engine.math import activations


def by_onnx(nodes, x, initializers=()):
    """What the operators themselves make of x."""
    value = helper.make_tensor_value_info
    shape = list(x.shape)
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, shape)], initializers
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return torch.from_numpy(onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x.numpy()})[0])


@pytest.fixture
def x():
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(0)) * 3


def test_one_range_for_all_is_what_dynamic_quantize_linear_does(x):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["c", "s", "z"]),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    assert torch.allclose(activations.by_tensor(x), by_onnx(nodes, x), atol=1e-6)


def test_a_fixed_range_is_what_quantize_linear_does(x):
    given = [
        onnx.numpy_helper.from_array(np.float32(0.02), "s"),
        onnx.numpy_helper.from_array(np.uint8(100), "z"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    assert torch.allclose(activations.fixed(x, 0.02, 100), by_onnx(nodes, x, given), atol=1e-6)


def test_an_outlier_costs_only_its_own_token(x):
    spoilt = x.clone()
    spoilt[2, 3] = 1e4
    error = (activations.by_token(spoilt) - spoilt).abs()
    assert torch.equal(error[0], (activations.by_token(x) - x).abs()[0])
    assert (activations.by_tensor(spoilt) - spoilt).abs()[0].max() > 50 * error[0].max()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 9), st.floats(1e-20, 1e20), st.booleans())
def test_rounding_stays_within_half_a_step(rows, columns, size, dead):
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * size
    x = torch.zeros_like(x) if dead else x
    for found in (activations.by_token(x), activations.by_tensor(x)):
        step = (x.max().clamp(min=0) - x.min().clamp(max=0)) / 255
        assert torch.isfinite(found).all()
        assert (found - x).abs().max() <= 0.51 * step + 1e-12


def test_zero_is_exact_on_a_fixed_grid():
    for low, high in ((-3.0, 1.0), (0.5, 4.0), (-2.0, -1.0), (0.0, 0.0)):
        scale, zero = activations.grid_of(low, high)
        assert 0 <= zero <= 255
        assert float(activations.fixed(torch.zeros(1), scale, zero)) == 0.0


def test_gradients_pass_straight_through(x):
    x.requires_grad_()
    activations.by_token(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
