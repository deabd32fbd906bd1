"""Recurrent operators: their kernels trust the shapes that they are given, so these are compared before they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

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
        ways, parts = 2 if both_ways else 1, 4 if biases else 2
        if x.dim() != 3 or not 1 <= layers <= 1000 or len(weights) != layers * ways * parts:
            raise ValueError(f"{name} has {len(weights)} weights for {layers} layers")
        hidden, inputs = weights[1].shape[1], x.shape[2]
        for number in range(layers * ways):
            own = [tuple(weight.shape) for weight in weights[number * parts : (number + 1) * parts]]
            before = inputs if number < ways else hidden * ways
            if own != [(gates * hidden, before), (gates * hidden, hidden), *[(gates * hidden,)] * (parts - 2)]:
                raise ValueError(f"{name} has a layer with weights of {own}")
        batch = x.shape[0 if batch_first else 1]
        for state in states if isinstance(states, list) else [states]:
            if tuple(state.shape) != (layers * ways, batch, hidden):
                raise ValueError(f"{name} has a state of {tuple(state.shape)}")
        if any(tensor.dtype != x.dtype for tensor in weights):
            raise ValueError(f"{name} has weights of several types")
        return run(x, states, weights, biases, layers, dropout, train, both_ways, batch_first)

    return checked
