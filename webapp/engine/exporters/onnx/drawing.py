"""A graph while it is changed: constants that are read when it is written, and nodes put before others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common
from onnx_ir.tensor_adapters import TorchTensor

from webapp.engine.lazy import Tensor, torch

from .trace import OPSET

MICROSOFT = "com.microsoft"  # onnxruntime's own operators
NUMBERS = {
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.int64: ir.DataType.INT64,
    torch.int32: ir.DataType.INT32,
    torch.int8: ir.DataType.INT8,
    torch.uint8: ir.DataType.UINT8,
}
TIDYING = (  # the last takes away where in this machine's files each node comes from
    common.RemoveUnusedNodesPass,
    common.RemoveUnusedOpsetsPass,
    common.ClearMetadataAndDocStringPass,
)
NIBBLES = {ir.DataType.INT4, ir.DataType.UINT4}


class Drawing:
    """What depends on constants alone stands at the beginning, up to `head`; all else where it is needed."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.graph = model, model.graph
        self.head: ir.Node | None = None

    def constant(self, name: str, shape: tuple[int, ...], dtype: ir.DataType, read: Callable[[], Tensor]) -> ir.Value:
        """An initializer whose values are read when the file is written. One name is one constant."""
        if name in self.graph.initializers:
            return self.graph.initializers[name]

        def made() -> ir.TensorProtocol:
            tensor = read().contiguous()
            if dtype in NIBBLES:
                return ir.tensor(tensor.numpy().astype(dtype.numpy()), dtype=dtype, name=name)
            return TorchTensor(tensor, name=name)

        lazy = ir.LazyTensor(made, dtype=dtype, shape=ir.Shape(shape), name=name)
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=lazy)
        self.graph.initializers.add(value)
        return value

    def tensor(self, name: str, values: Tensor) -> ir.Value:
        return self.constant(name, tuple(values.shape), NUMBERS[values.dtype], lambda: values)

    def number(self, value: float, dtype: torch.dtype = torch.float32) -> ir.Value:
        """A scalar; equal ones are one."""
        return self.tensor(f"{NUMBERS[dtype].name.lower()}_{value!r}", torch.tensor(value, dtype=dtype))

    def axes(self, *sizes: int) -> ir.Value:
        return self.tensor("axes_" + "_".join(str(size) for size in sizes), torch.tensor(sizes, dtype=torch.int64))

    def node(
        self, operator: str, *inputs: ir.Value | None, before: ir.Node | None = None, domain: str = "", **more: Any
    ) -> ir.Value:
        """A node of one output, put before the node that needs it, or at the beginning; `more` are its attributes."""
        made = ir.node(operator, inputs, more, domain=domain)
        if before is not None:
            self.graph.insert_before(before, made)
        elif self.head is not None:
            self.graph.insert_after(self.head, made)
        else:
            self.graph.insert_before(self.graph[0], made)
        self.head = made if before is None else self.head
        return made.outputs[0]

    def cast(self, value: ir.Value, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        return value if value.dtype == dtype else self.node("Cast", value, to=int(dtype))

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Everything that read `old` reads `new`, the caller of the graph included."""
        if old.is_graph_output():
            old.name, new.name, new.shape, new.type = f"{old.name}_before", old.name, old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)

    def finished(self) -> ir.Model:
        """The model without what nothing reads, every node after those that it reads."""
        self._part_sums_from_norms()
        self.model.opset_imports.update({"": OPSET, MICROSOFT: 1})
        for make_pass in TIDYING:
            make_pass()(self.model)
        self.graph.sort()
        return self.model

    def _part_sums_from_norms(self) -> None:
        """A Sum for an Add before a normalisation: onnxruntime would make them one, which takes five times as long."""
        for node in list(self.graph):
            readers = node.outputs[0].consumers() if node.op_type == "Add" else ()
            if any(reader.op_type == "LayerNormalization" for reader in readers):
                self.replace(node.outputs[0], self.node("Sum", *node.inputs, before=node))
                self.graph.remove(node, safe=True)
