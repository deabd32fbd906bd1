"""The operators that a program may name: functions from tensors to tensors, and whole-number arithmetic of sizes.

ATen has operators that read files, resize storage or take addresses; what is not on this list is not run.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from webapp.engine.lazy import Tensor, torch

Operator = Callable[..., Any]

ELEMENTWISE = """
    abs acos acosh add addcdiv addcmul asin asinh atan atan2 atanh bitwise_and bitwise_not bitwise_or bitwise_xor ceil
    celu clamp clamp_max clamp_min cos cosh div elu eq erf erfc exp exp2 expm1 fill floor floor_divide fmod frac ge gelu
    gt hardshrink hardsigmoid hardswish hardtanh isfinite isinf isnan le leaky_relu lerp log log10 log1p log2
    log_sigmoid logaddexp logical_and logical_not logical_or logical_xor logit lt masked_fill maximum minimum mish mul
    ne neg nan_to_num pow prelu reciprocal relu relu6 remainder round rsqrt rsub selu sigmoid sign silu sin sinc sinh
    softplus softshrink sqrt square sub tan tanh threshold tril triu trunc where xlogy zero
    __and__ __or__ __xor__ true_divide divide multiply subtract
"""
REDUCTIONS = """
    all amax amin any argmax argmin argsort cumprod cumsum logsumexp log_softmax _log_softmax max mean median min norm
    linalg_vector_norm linalg_norm prod softmax _softmax sort std sum topk var var_mean std_mean
"""
SHAPES = """
    _to_copy _unsafe_view alias arange broadcast_to broadcast_tensors cat channel_shuffle chunk clone concat
    concatenate constant_pad_nd contiguous copy detach diagonal diff expand eye flatten flip full full_like
    expand_as gather hstack index index_put index_select lift_fresh lift_fresh_copy linspace masked_select meshgrid
    movedim moveaxis narrow new_full new_ones new_zeros ones ones_like pad permute pixel_shuffle pixel_unshuffle
    reflection_pad1d reflection_pad2d repeat repeat_interleave replication_pad1d replication_pad2d reshape
    resolve_conj resolve_neg roll rot90 scalar_tensor scatter scatter_add select slice split split_with_sizes
    squeeze stack swapaxes swapdims sym_size sym_numel sym_stride t take_along_dim tensor_split tile to transpose
    tril_indices triu_indices type_as unbind unflatten unfold unsafe_split unsqueeze vstack view view_as zeros
    zeros_like im2col one_hot select_scatter slice_scatter numpy_T mT
"""
PRODUCTS = """
    addbmm addmm addmv baddbmm bilinear bmm conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    convolution dot einsum embedding linear matmul mm mv outer scaled_dot_product_attention
    tensordot cosine_similarity cdist
"""
NORMS_AND_POOLS = """
    _native_batch_norm_legit _native_batch_norm_legit_no_training adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d avg_pool1d
    avg_pool2d avg_pool3d batch_norm dropout feature_dropout glu group_norm instance_norm layer_norm max_pool1d
    max_pool2d max_pool2d_with_indices max_pool3d native_batch_norm native_group_norm native_layer_norm rms_norm
    _fused_rms_norm upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    grid_sampler affine_grid_generator
"""
ATEN = frozenset(" ".join((ELEMENTWISE, REDUCTIONS, SHAPES, PRODUCTS, NORMS_AND_POOLS)).split())
IN_PLACE = frozenset(ELEMENTWISE.split()) | {"dropout", "copy", "detach", "unsqueeze", "squeeze", "transpose", "t"}
ARITHMETIC = "add sub mul floordiv mod truediv neg pos eq ne lt le gt ge and_ or_ not_"
SIZES: dict[str, Operator] = {
    **{f"_operator.{name}": getattr(operator, name) for name in ARITHMETIC.split()},
    "math.floor": math.floor,
    "math.ceil": math.ceil,
    "math.trunc": math.trunc,
    "torch.sym_float": torch.sym_float,
    "torch.sym_int": torch.sym_int,
    "torch.sym_not": torch.sym_not,
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
    "torch.sym_ite": torch.sym_ite,
}
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent(name: str) -> Callable[..., Any]:
    """The operator for one input of three axes. Raises ValueError where a weight or a state has another shape."""
    run, gates = getattr(torch.ops.aten, name).input, GATES[name]

    def checked(
        x: Tensor,
        states: Any,
        weights: Sequence[Tensor],
        biases: bool,
        layers: int,
        dropout: float,
        train: bool,
        both_ways: bool,
        batch_first: bool,
    ) -> Any:
        ways, plain = 2 if both_ways else 1, 4 if biases else 2
        projects = name == "lstm" and len(weights) == layers * ways * (plain + 1)
        parts = plain + projects
        if x.dim() != 3 or not 1 <= layers <= 1000 or len(weights) != layers * ways * parts:
            raise ValueError(f"{name} has {len(weights)} weights for {layers} layers")
        if any(weight.dim() != (2 if place % parts in (0, 1, plain) else 1) for place, weight in enumerate(weights)):
            raise ValueError(f"{name} has weights of {sorted({weight.dim() for weight in weights})} axes")
        answers, inputs = weights[1].shape[1], x.shape[2]  # narrower than the cells where it projects
        hidden = weights[plain].shape[1] if projects else answers
        for number in range(layers * ways):
            own = [tuple(weight.shape) for weight in weights[number * parts : (number + 1) * parts]]
            before = inputs if number < ways else answers * ways
            matrices = [(gates * hidden, before), (gates * hidden, answers)]
            vectors = [(gates * hidden,)] * (plain - 2)
            if own != [*matrices, *vectors, *([(answers, hidden)] if projects else [])]:
                raise ValueError(f"{name} has a layer with weights of {own}")
        batch = x.shape[0 if batch_first else 1]
        given = states if isinstance(states, list) else [states]
        for state, width in zip(given, (answers, hidden), strict=False):
            if tuple(state.shape) != (layers * ways, batch, width):
                raise ValueError(f"{name} has a state of {tuple(state.shape)}")
        if len(given) != (2 if name == "lstm" else 1):
            raise ValueError(f"{name} has {len(given)} states")
        if any(tensor.dtype != x.dtype for tensor in weights):
            raise ValueError(f"{name} has weights of several types")
        return run(x, states, weights, biases, layers, dropout, train, both_ways, batch_first)

    return checked


@cache
def operator_of(name: str) -> Operator | None:
    """The function behind "aten.linear.default" or "_operator.mul"; None for a name that is not on the list."""
    if name in SIZES:
        return SIZES[name]
    namespace, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    if (namespace, overload) == ("aten", "input") and packet in GATES:
        return recurrent(packet)
    stem = packet.removesuffix("_") if not packet.endswith("__") else packet
    allowed = packet in ATEN or (packet != stem and stem in IN_PLACE)
    if namespace != "aten" or not allowed:
        return None
    found = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
    if not isinstance(found, torch._ops.OpOverload) or any(given.is_out for given in found._schema.arguments):
        return None
    return found
