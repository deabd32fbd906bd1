"""From a model to an exported program that is called by the names of its inputs, with free batch and length."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from webapp.engine.architectures.build import build, leaves_of
from webapp.engine.errors import ExportUnfit
from webapp.engine.exporters.onnx.model_call import CalledModule, with_plain_operators
from webapp.engine.exporters.onnx.trace import Untraceable, example, exported_program, free_axes
from webapp.engine.weights.model import Model

from .stored import hold, stored


class Named(nn.Module):
    """Called by the names of the inputs; a transformer answers by the name of what it puts out.

    So does a program that `told` the names of its outputs; without them several are a tuple.
    """

    def __init__(self, served: CalledModule, names: Iterable[str], told: bool) -> None:
        super().__init__()
        self.served, self.told = served, told
        self.forward: Any = self._taking(names)

    def _taking(self, names: Iterable[str]) -> Callable[..., Any]:
        """The forward of an exported program has the signature that was traced."""

        def forward(**inputs: Tensor) -> Any:
            found = self.served(*inputs.values())
            if isinstance(found, list):
                return dict(zip(self.served.answers, found, strict=True)) if self.told else tuple(found)
            return {self.served.answer: found} if self.served.named else found

        forward.__signature__ = Signature([Parameter(name, Parameter.KEYWORD_ONLY) for name in names])  # type: ignore[attr-defined]
        return forward


REMARKS = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn")  # of the tracer: lines of the files here


def exported(model: Model) -> ExportedProgram:
    """The program. Raises ExportUnfit where the module's forward cannot be traced."""
    spec = model.architecture
    assert spec is not None
    module, batch = holding(model), example(spec)
    served = Named(
        CalledModule(module, spec, batch.inputs), batch.inputs, "answers" in spec.config.get("program", ())
    ).eval()
    try:
        program = exported_program(served, (), batch.inputs, {name: free_axes(spec) for name in batch.inputs})
    except Untraceable as error:
        raise ExportUnfit(f"This model cannot be written as an exported program: {error}.") from error
    program.example_inputs = None  # they would be pickled
    for graph in program.graph_module.modules():
        for node in graph.graph.nodes if isinstance(graph, torch.fx.GraphModule) else ():
            for remark in REMARKS:
                node.meta.pop(remark, None)
    return program


def holding(model: Model) -> nn.Module:
    """The module of a model, with each weight as small as it is stored."""
    module, holders = build(model), {}
    with_plain_operators(module)
    for name, (leaf, transposed) in leaves_of(model).items():
        path, _, last = name.rpartition(".")
        key = (id(leaf), transposed)  # tied weights are held once
        if key not in holders:
            holders[key] = stored(leaf, transposed)
        if (held := holders[key]) is not None:
            hold(module.get_submodule(path), last, held)
    return module
