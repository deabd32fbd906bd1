"""Graphs that ask for more than there is, or for what is not run: a sentence each, and the weights all the same."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from tests.engine.importers.onnx.graphs import written

PRODUCT = ("MatMul", ["x", "w"], ["m"], {})
HUGE = 2**40


def filled(op, inputs, **about):
    """x w + the sum of what an operator makes."""
    made = [(op, inputs, ["made"], about), ("Cast", ["made"], ["floats"], {"to": 1})]
    return [PRODUCT, *made, ("ReduceSum", ["floats"], ["sum"], {}), ("Add", ["m", "sum"], ["y"], {})]


def growing(*steps):
    """Forty rounds of steps on the shape of x, each round from "k" to "k"."""
    nodes = [PRODUCT, ("Shape", ["x"], ["k0"], {})]
    for number in range(40):
        names = {"k": f"k{number}", "out": f"k{number + 1}"}
        for op, inputs, output in steps:
            places = [names.get(name, f"{name}{number}" if name in "ab" else name) for name in inputs]
            nodes.append((op, places, [names.get(output, f"{output}{number}")], {}))
    return [*nodes, ("ConstantOfShape", ["k40"], ["c"], {}), ("Add", ["m", "c"], ["y"], {})]


BRANCH = helper.make_graph([], "branch", [], [])
CASES = {
    "filled": (filled("ConstantOfShape", ["s"]), {"s": [HUGE, HUGE]}, "ConstantOfShape"),
    "less than nothing": (filled("ConstantOfShape", ["s"]), {"s": [-5, 3]}, "ConstantOfShape"),
    "expanded": (filled("Expand", ["one", "s"]), {"s": [HUGE], "one": [1]}, "makes a tensor of shape"),
    "tiled": (filled("Tile", ["one", "s"]), {"s": [HUGE], "one": [1]}, "makes a tensor of shape"),
    "range": (filled("Range", ["a", "b", "c"]), {"a": 0, "b": HUGE, "c": 1}, "makes a tensor of shape"),
    "padded": (filled("Pad", ["m", "s"]), {"s": [0, 0, 0, HUGE]}, "makes a tensor of shape"),
    "outer": (filled("MatMul", ["t", "v"]), {"t": np.ones((10**5, 1)), "v": np.ones((1, 10**5))}, "with a MatMul"),
    "squared": (growing(("Mul", ["k", "k"], "out")), {}, "more than 64 bits"),
    "nested": (
        growing(("Div", ["k", "two"], "a"), ("Mod", ["k", "seven"], "b"), ("Add", ["a", "b"], "out")),
        {"two": [2], "seven": [7]},
        "in more steps than are followed",
    ),
    "power": (
        [PRODUCT, ("Pow", ["t", "n"], ["p"], {}), ("Add", ["m", "p"], ["y"], {})],
        {"t": 10, "n": 10**9},
        "powers",
    ),
    "circle": ([PRODUCT, ("Add", ["m", "b"], ["a"], {}), ("Add", ["a", "m"], ["b"], {})], {}, "go in a circle"),
    "missing": ([PRODUCT, ("Add", ["m", "nowhere"], ["y"], {})], {}, 'needs "nowhere", which nothing in it makes'),
    "twice": ([PRODUCT, ("Relu", ["x"], ["m"], {}), ("Relu", ["m"], ["y"], {})], {}, 'makes "m" twice'),
    "branches": (
        [PRODUCT, ("If", ["m"], ["y"], {"then_branch": BRANCH, "else_branch": BRANCH})],
        {},
        "has an If whose",
    ),
    "newer": ([PRODUCT, ("Relu", ["m"], ["y"], {"leaks": 1})], {}, "sets leaks of a Relu"),
    "letters": ([PRODUCT, ("Einsum", ["m", "m"], ["y"], {"equation": "ab,cd->" + "ab" * 99})], {}, "Einsum"),
    "axes": ([PRODUCT, ("Unsqueeze", ["m", "n"], ["y"], {})], {"n": list(range(2, 200))}, "more than 64 axes"),
    "places": ([PRODUCT, ("GatherND", ["m", "n"], ["y"], {})], {"n": [[0] * 9]}, "no places of it"),
    "long": ([PRODUCT, *[("Relu", [f"{'m' * n}"], ["m" * (n + 1)], {}) for n in range(1, 4)]], {}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_weights_only_with_a_reason(bench, tmp_path, name):
    nodes, tensors, said = CASES[name]
    held = {key: np.asarray(value) for key, value in tensors.items()}
    held = {key: value.astype(np.float32) if value.dtype == np.float64 else value for key, value in held.items()}
    facts = bench.checkpoint(written(tmp_path / "m.onnx", nodes, {"w": torch.ones(6, 4).numpy(), **held}))
    if said is None:
        assert facts.weights_only_because is None
    else:
        assert said in facts.weights_only_because
        assert [layer.name for layer in facts.layers][:1] == ["w"]


def test_more_nodes_than_are_followed(bench, tmp_path):
    nodes = [("MatMul", ["x", "w"], ["m0"], {})]
    nodes += [("Relu", [f"m{n}"], [f"m{n + 1}"], {}) for n in range(10_000)]
    facts = bench.checkpoint(written(tmp_path / "m.onnx", nodes, {"w": torch.ones(6, 4).numpy()}))
    assert "at most 10000 are followed" in facts.weights_only_because


def test_names_that_modules_keep_are_changed(bench, tmp_path):
    names = ["__class__", "forward", "../../etc/passwd", "L" * 100_000, "a.b", "a.b.c", "a", "weight", "training"]
    nodes = [("MatMul", ["x" if not n else f"h{n}", name], [f"h{n + 1}"], {}) for n, name in enumerate(names)]
    tensors = {name: torch.eye(6).numpy() for name in names}
    facts = bench.checkpoint(written(tmp_path / "m.onnx", nodes, tensors))
    assert facts.weights_only_because is None
    assert len({layer.name for layer in facts.layers}) == len(names)
    assert max(len(layer.name) for layer in facts.layers) <= 101


def test_an_input_of_no_known_shape(bench, tmp_path):
    path = written(tmp_path / "m.onnx", [PRODUCT], {"w": torch.ones(6, 4).numpy()}, ("x", TensorProto.FLOAT, None))
    assert 'does not tell the shape of its input "x"' in bench.checkpoint(path).weights_only_because
