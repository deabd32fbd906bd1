"""Operators on one tensor, number by number: activations, roots, signs and angles."""

from __future__ import annotations

import math
import operator as python
from collections.abc import Callable
from typing import Any

from webapp.engine.importers.onnx.values import FLOAT, KnownNumbers, Value, each, tensor
from webapp.engine.lazy import Tensor, functional, torch

from .table import operator

PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Erf": torch.erf,
    "Mish": functional.mish,
    "HardSwish": functional.hardswish,
    "Softplus": functional.softplus,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,  # halves to even, as ONNX has it
    "IsNaN": torch.isnan,
    "Not": torch.logical_not,
    "com.microsoft.Gelu": functional.gelu,
    "com.microsoft.QuickGelu": lambda x: x * torch.sigmoid(1.702 * x),
}
ON_NUMBERS: dict[str, Callable[[Any], Any]] = {
    "Neg": python.neg,
    "Abs": abs,
    "Not": python.not_,
    "Sqrt": math.sqrt,
    "Exp": math.exp,
    "Log": math.log,
    "Reciprocal": lambda x: 1 / x,
    "Floor": lambda x: float(math.floor(x)),
    "Ceil": lambda x: float(math.ceil(x)),
}


def _one(name: str, run: Callable[[Tensor], Tensor]) -> Callable[..., Value]:
    on_numbers = ON_NUMBERS.get(name)

    def on(_: Any, x: Value) -> Value:
        if isinstance(x, KnownNumbers) and on_numbers is not None and (x.plain or name == "Neg"):
            return each(on_numbers, x.dtype, x)
        return run(tensor(x))

    return on


for _name, _run in PLAIN.items():
    operator(_name)(_one(_name, _run))


@operator("Elu")
def elu(node: Any, x: Value) -> Value:
    value, alpha = tensor(x), node.get("alpha", 1.0)
    return torch.where(value > 0, value, alpha * torch.expm1(value))


@operator("Selu")
def selu(node: Any, x: Value) -> Any:
    alpha, gamma = node.get("alpha", 1.6732632423543772), node.get("gamma", 1.0507009873554805)
    value = tensor(x)
    return gamma * torch.where(value > 0, value, alpha * torch.expm1(value))


@operator("HardSigmoid")
def hard_sigmoid(node: Any, x: Value) -> Value:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return functional.hardsigmoid(tensor(x))
    return torch.clamp(alpha * tensor(x) + beta, 0, 1)


@operator("ThresholdedRelu")
def thresholded_relu(node: Any, x: Value) -> Value:
    value = tensor(x)
    return torch.where(value > node.get("alpha", 1.0), value, 0.0)


@operator("Softsign")
def softsign(_: Any, x: Value) -> Value:
    value = tensor(x)
    return value / (1 + value.abs())


@operator("Shrink")
def shrink(node: Any, x: Value) -> Value:
    value, bias, edge = tensor(x), node.get("bias", 0.0), node.get("lambd", 0.5)
    return torch.where(value > edge, value - bias, torch.where(value < -edge, value + bias, 0.0))


@operator("com.microsoft.FastGelu", "com.microsoft.BiasGelu")
def biased_gelu(node: Any, x: Value, bias: Value | None = None) -> Value:
    value = tensor(x) if bias is None else tensor(x) + tensor(bias)
    return functional.gelu(value, approximate="tanh" if node.op.endswith("FastGelu") else "none")


@operator("Swish")
def swish(node: Any, x: Value) -> Any:
    value = tensor(x)
    return functional.silu(value) if node.get("alpha", 1.0) == 1 else value * torch.sigmoid(node.get("alpha") * value)


@operator("IsInf")
def is_infinite(node: Any, x: Value) -> Value:
    value = tensor(x)
    if node.get("detect_negative", 1) and node.get("detect_positive", 1):
        return torch.isinf(value)
    return value == (math.inf if node.get("detect_positive", 1) else -math.inf)


@operator("Softmax", "LogSoftmax")
def softmax(node: Any, x: Value) -> Value:
    """Before opset 13 over all axes from `axis` (1) on, taken together."""
    run = torch.softmax if node.op == "Softmax" else torch.log_softmax
    value = tensor(x).to(FLOAT)
    if node.opset >= 13:
        return run(value, node.get("axis", -1))
    axis = node.get("axis", 1) % max(value.dim(), 1)
    if axis == value.dim() - 1:
        return run(value, axis)
    return run(value.flatten(axis), axis).reshape(value.shape)


@operator("Hardmax")
def hardmax(node: Any, x: Value) -> Value:
    value, axis = tensor(x), node.get("axis", -1 if node.opset >= 13 else 1)
    first = torch.argmax(value, axis)
    return functional.one_hot(first, value.shape[axis]).movedim(-1, axis).to(value.dtype)


SINGLE: dict[str, Callable[..., Any]] = {
    "Identity": lambda _, x: x,
    "Dropout": lambda _, x, *__: [x, None],  # as it is in evaluation
    "LeakyRelu": lambda node, x: functional.leaky_relu(tensor(x), node.get("alpha", 0.01)),
    "Celu": lambda node, x: functional.celu(tensor(x), node.get("alpha", 1.0)),
    "Gelu": lambda node, x: functional.gelu(tensor(x), approximate=node.get("approximate", "none")),
}
for _name, _function in SINGLE.items():
    operator(_name)(_function)
