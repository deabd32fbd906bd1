"""LSTM, GRU and RNN, whose gates ONNX has in another order than torch: https://onnx.ai/onnx/operators/onnx__LSTM.html.

Where their weights lie in the file they are given as torch has them (`Apart`), so that they are layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from webapp.engine.importers.exported_program.serialized import NotRun
from webapp.engine.importers.onnx.values import KnownNumbers, Value, tensor
from webapp.engine.lazy import Tensor, torch

from .table import operator

GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # where torch's are among ONNX's
ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
APART = "pare."  # before the name of one whose inputs are x, h, c and torch's weights, direction by direction
WAYS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def in_order(op: str, weight: Tensor) -> Tensor:
    """(gates * hidden, ...) in the order of torch."""
    gates = GATES[op]
    return torch.cat([weight.chunk(len(gates))[gate] for gate in gates])


def apart(op: str, w: Tensor, r: Tensor, b: Tensor | None) -> list[Tensor]:
    """torch's weights of one direction."""
    biases = () if b is None else b.chunk(2)
    return [in_order(op, part) for part in (w, r, *biases)]


@operator("LSTM", "GRU", "RNN")
def recurrent(
    node: Any,
    x: Value,
    w: Value,
    r: Value,
    b: Value | None = None,
    lengths: Value | None = None,
    h: Value | None = None,
    c: Value | None = None,
    peepholes: Value | None = None,
) -> list[Value]:
    biases = None if b is None else tensor(b)
    ways = [
        apart(node.op, own, tensor(r)[way], None if biases is None else biases[way])
        for way, own in enumerate(tensor(w).unbind())
    ]
    if peepholes is not None:
        raise NotRun(f"has a {node.op} with peepholes")
    return run(node, node.op, tensor(x), lengths, h, c, [part for own in ways for part in own], biases is not None)


@operator(*(f"{APART}{op}" for op in GATES))
def recurrent_apart(
    node: Any, x: Value, lengths: Value | None, h: Value | None, c: Value | None, *weights: Value
) -> list[Value]:
    held = [tensor(weight) for weight in weights]
    op = node.op.removeprefix(APART)
    return run(node, op, tensor(x), lengths, h, c, held, any(weight.dim() == 1 for weight in held))


def run(
    node: Any,
    op: str,
    x: Tensor,
    lengths: Value | None,
    h: Value | None,
    c: Value | None,
    weights: Sequence[Tensor],
    biases: bool,
) -> list[Value]:
    """Y (T, ways, B, hidden), Y_h (ways, B, hidden) and, of an LSTM, Y_c; with the batch first where the node says."""
    first, direction = bool(node.get("layout", 0)), node.get("direction", "forward")
    kind, ways, hidden = _kind(node, op, direction), WAYS.get(direction, 0), weights[1].shape[1]
    if not ways or node.get("hidden_size", hidden) != hidden:
        raise NotRun(f"has a {op} whose weights are not of the size or direction that it tells")
    if lengths is not None and not _whole(lengths, x.shape[1 if first else 0]):
        raise NotRun(f"has a {op} that is told where each sequence ends")
    x = x.transpose(0, 1) if first else x
    back = direction == "reverse"
    states = [_state(given, x, ways, hidden, first) for given in ([h, c] if op == "LSTM" else [h])]
    given = states if op == "LSTM" else states[0]
    found = getattr(torch, kind)(
        x.flip(0) if back else x, given, list(weights), biases, 1, 0.0, False, ways == 2, False
    )
    answers, *ends = found
    answers = answers.flip(0) if back else answers
    answers = answers.unflatten(2, (ways, hidden)).transpose(1, 2)
    if first:
        answers, ends = answers.permute(2, 0, 1, 3), [end.transpose(0, 1) for end in ends]
    return [answers, *ends]


def _kind(node: Any, op: str, direction: str) -> str:
    """torch's name. Raises NotRun for a variant that torch has no operator for."""
    asked = [name.lower() for name in node.get("activations") or []]
    usual = ACTIVATIONS[op] * WAYS.get(direction, 1)
    relu = op == "RNN" and asked == ["relu"] * len(usual)
    if (asked and asked != usual and not relu) or node.get("clip", 0.0) or node.get("input_forget", 0):
        raise NotRun(f"has a {op} with activations or limits that torch does not have")
    if op == "GRU" and not node.get("linear_before_reset", 0):
        raise NotRun("has a GRU that resets before it multiplies (linear_before_reset 0)")
    return f"rnn_{'relu' if relu else 'tanh'}" if op == "RNN" else op.lower()


def _whole(lengths: Value, length: Any) -> bool:
    return (
        isinstance(lengths, KnownNumbers) and isinstance(length, int) and all(n == length for n in lengths.values.flat)
    )


def _state(given: Value | None, x: Tensor, ways: int, hidden: int, batch_first: bool) -> Tensor:
    if given is None:
        return x.new_zeros((ways, x.shape[1], hidden))
    return tensor(given).transpose(0, 1) if batch_first else tensor(given)
