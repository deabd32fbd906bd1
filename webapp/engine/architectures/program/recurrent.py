"""Recurrent operators: their kernels trust the shapes that they are given, so these are compared before they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from webapp.engine.lazy import Tensor, torch

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
