"""Where a graph uses a weight: what is multiplied with it, or looked up in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir


@dataclass(frozen=True)
class Use:
    """`node` is given `x` and the weight and puts out `output`; a Gemm adds the bias itself."""

    kind: Literal["linear", "conv", "lookup"]
    node: ir.Node
    x: ir.Value
    output: ir.Value
    bias: ir.Value | None = None


def uses_of(weight: ir.Value) -> list[Use]:
    """What is known of the weight's uses; those of any other kind are not among them, nor those of stacked matrices."""
    found, matrix = [], len(weight.shape or ()) == 2
    for node, index in weight.uses():
        if (node.op_type, index) == ("Conv", 1):
            found.append(Use("conv", node, _input(node, 0), node.outputs[0], _bias(node)))
        elif not matrix:
            continue
        elif node.op_type == "Transpose":
            found += [_linear(user) for user, place in node.outputs[0].uses() if (user.op_type, place) == ("MatMul", 1)]
        elif (node.op_type, index) in (("MatMul", 1), ("Gemm", 1)):
            found.append(_linear(node))
        elif (node.op_type, index) == ("Gather", 0) and node.attributes.get_int("axis", 0) == 0:
            found.append(Use("lookup", node, _input(node, 1), node.outputs[0]))
    return found


def only_user(value: ir.Value) -> ir.Node | None:
    """The one node that reads the value; None where several do, or the caller of the graph."""
    users = value.consumers()
    return users[0] if len(users) == 1 and not value.is_graph_output() else None


def _linear(node: ir.Node) -> Use:
    return Use("linear", node, _input(node, 0), node.outputs[0], _bias(node))


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _bias(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None
