"""Every operator against the cases that come with the ONNX standard: each agrees, or says that it is not run."""

from collections import Counter

import numpy as np
import pytest
import torch
from onnx import TensorProto, numpy_helper

from webapp.engine.importers.exported_program.serialized import NotRun
from webapp.engine.importers.onnx.graph import GraphNode
from webapp.engine.importers.onnx.operators import OPERATORS
from webapp.engine.importers.onnx.values import KnownNumbers, constant, kind_of, tensor

SETTINGS = {"Clip": (1, 2), "Range": (0, 1, 2), "ConstantOfShape": (0,), "OneHot": (1, 2), "Resize": (1, 2, 3)}
# another half of equals, training, an axis without numbers; and types that no weights have
UNLIKE = ("top_k_same_values", "training_dropout", "l2normalization_axis_0", "empty_set", "nan_robustness")
STRANGE = ("FLOAT8", "FLOAT4", "INT4", "INT2", "cast_e8m0")


def values_of(held):
    return numpy_helper.to_array(held) if isinstance(held, TensorProto) else np.asarray(held)


def given(node, inputs):
    for place, name in enumerate(node.input):
        value = inputs.get(name)
        if value is None:
            yield None
        elif value.dtype.kind not in "fiub":
            raise NotRun("has numbers of another kind")
        else:
            wide = torch.from_numpy(value.astype(np.int64) if value.dtype.kind == "u" else value.copy())
            wide = wide.to(kind_of(wide.dtype))
            whole = (
                place and not wide.is_floating_point() and node.op_type not in ("Gather", "GatherElements", "GatherND")
            )
            setting = place in SETTINGS.get(node.op_type, ()) or (whole and wide.numel() < 20 and wide.dim() < 2)
            yield constant(wide) if setting else wide


def answers(case):
    """(ours, the standard's). Raises NotRun."""
    (node,), (inputs, expected) = case.model.graph.node, case.data_sets[0]
    opset = max((entry.version for entry in case.model.opset_import if not entry.domain), default=1)
    about = {item.name: plain(item) for item in node.attribute}
    made = GraphNode(node.op_type, tuple(node.input), tuple(node.output), about, opset)
    names = [item.name for item in case.model.graph.input]
    found = OPERATORS[node.op_type](made, *given(node, dict(zip(names, map(values_of, inputs), strict=True))))
    if made.disregarded():
        raise NotRun("has another attribute")
    results = found if isinstance(found, list) else [found]
    asked = [value for name, value in zip(node.output, results, strict=False) if name]
    return asked, [values_of(held) for held in expected]


def plain(item):
    kinds = {1: "f", 2: "i", 6: "floats", 7: "ints"}
    if item.type == 3:
        return item.s.decode()
    if item.type == 4:
        return constant(torch.from_numpy(numpy_helper.to_array(item.t).copy()))
    value = getattr(item, kinds.get(item.type, "strings"))
    return value if item.type in (1, 2) else list(value)


@pytest.mark.filterwarnings("ignore")
def test_operators_agree_with_the_cases_of_the_standard():
    from onnx.backend.test.loader import load_model_tests

    agreed, wrong = Counter(), []
    for case in load_model_tests(kind="node"):
        if (
            case.model is None
            or len(case.model.graph.node) != 1
            or any(word in case.name for word in (*UNLIKE, *STRANGE))
        ):
            continue
        op = case.model.graph.node[0].op_type
        if op not in OPERATORS or case.model.graph.node[0].domain:
            continue
        try:
            pairs = list(zip(*answers(case), strict=False))
        except NotRun:
            continue
        agreed[op] += 1
        wrong += [
            case.name
            for ours, theirs in pairs
            if isinstance(ours, (KnownNumbers, torch.Tensor)) and not same(ours, theirs)
        ]
    assert wrong == []
    assert len(agreed) > 110
    assert sum(agreed.values()) > 600


def same(ours, theirs):
    found = tensor(ours).numpy().astype(np.float64)
    wide = 1e-2 if theirs.dtype == np.float16 else 1e-3
    return found.shape == theirs.shape and np.allclose(found, theirs.astype(np.float64), 1e-3, wide, equal_nan=True)
