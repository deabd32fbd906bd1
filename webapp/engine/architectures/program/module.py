"""The module that runs a program. Its layers are modules of their own, under the names of their weights.

A program is JSON:

    {"inputs": ["x"], "tensors": {"scale": ["float32", [16], true]}, "layers": {"fc": {"kind": "linear", ...}},
     "ties": {"head.weight": "emb.weight"}, "output": "%4", "steps": [
        ["layer", "%1", ["fc", "%0"]], ["aten.mul.Tensor", "%2", ["%1", "@scale"]],
        ["aten.split.Tensor", ["%3", "%4"], ["%2", 8, 1]]]}

A step is an operator, what its result is called, its arguments, and perhaps its named ones. "%n" is a value (the inputs
come first), "@name" a tensor of the module; "dtype:", "memory:", "float:" and "string:" begin what JSON has no form
for, "device:" is where the inputs are, and "batch:n" n times the samples in the batch.
Of several outputs "output" is a list, and "answers" their names if they have any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from webapp.engine.errors import CheckpointRefused, quoted
from webapp.engine.facts import PLAIN, LayerKind, Layout
from webapp.engine.weights.safetensors import DTYPES

from .layers import layer_of
from .operators import GATES, operator_of

Before = Callable[[int, list[Any]], list[Any]]
MOST_STEPS = 100_000
NAMED = {name: getattr(torch, name) for name in (*DTYPES.values(), "complex64")}
MEMORY = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
    "preserve": torch.preserve_format,
}
CONSTANTS: dict[str, Callable[[str], Any]] = {
    "dtype": NAMED.__getitem__,
    "memory": MEMORY.__getitem__,
    "float": float,
    "string": str,
}
LAYER, DROPOUT = "layer", "dropout"
KEEPING = "select index index_select clone contiguous to _to_copy expand unsqueeze"
SAME = {f"aten.{name}" for name in KEEPING.split()}
PARTS = ("aten.unbind", "aten.split", "aten.chunk")  # results with the matrices of what they are given
TURNING = ("aten.t", "aten.mT", "aten.numpy_T", "aten.transpose", "aten.permute")
SIDES = {  # operator -> place of what is multiplied with, and whether that is (in, out)
    "aten.linear": {1: False},
    "aten.bmm": {0: False, 1: True},
    "aten.mm": {0: False, 1: True},
    "aten.matmul": {0: False, 1: True},
    "aten.addmm": {1: False, 2: True},
    "aten.baddbmm": {1: False, 2: True},
}


def raw_matrices(program: Mapping[str, Any]) -> dict[str, tuple[LayerKind, Layout]]:
    """Kind and layout of each, by its name."""
    found: dict[str, tuple[LayerKind, Layout]] = {}
    shapes = {f"@{name}": shape for name, (_, shape, trained) in program["tensors"].items() if trained}
    stacks = {name: False for name, shape in shapes.items() if len(shape) == 3 and shape[0] > 1}
    views = {
        name: (name, transposed) for name, transposed in stacks.items()
    }  # value -> stack, and whether it is transposed
    for target, result, args, *_ in program["steps"]:
        packet = str(target).rpartition(".")[0]
        if packet.removeprefix("aten.") in GATES:
            weights = next(arg for arg in args[1:] if isinstance(arg, list) and any(name in shapes for name in arg))
            found |= {name[1:]: ("recurrent", PLAIN) for name in weights if len(shapes.get(name, ())) == 2}
        source = args[0] if args and isinstance(args[0], str) else ""
        if source in views and (packet in SAME or packet in PARTS or packet in TURNING):
            stack, transposed = views[source]
            made = (stack, transposed != (packet in TURNING))
            views |= {name: made for name in (result if isinstance(result, list) else [result]) if name is not None}
        for stack, inputs_first in _multiplied(packet, args, views):
            found[stack[1:]] = ("experts", Layout(inputs_first, shapes[stack][0], stacked=True))
    return found


def _multiplied(packet: str, args: list[Any], views: Mapping[str, tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """Stacks that a step multiplies with, and whether they are stored as (experts, in, out)."""
    if packet == "aten.einsum" and len(args) > 1 and isinstance(args[1], list):
        letters, _, answer = str(args[0]).removeprefix("string:").replace(" ", "").partition("->")
        for own, operand in zip(letters.split(","), args[1], strict=False):
            if operand in views and len(own) == 3 and answer:
                yield views[operand][0], (own[2] in answer) != views[operand][1]
    for place, inputs_first in SIDES.get(packet, {}).items():
        operand = args[place] if place < len(args) else None
        if isinstance(operand, str) and operand in views:
            yield views[operand][0], inputs_first != views[operand][1]


class ProgramModule(nn.Module):
    """Called with the program's inputs in their order; answers with its output, or a list of several.

    Raises CheckpointRefused if unsafe.
    """

    def __init__(self, program: Mapping[str, Any]) -> None:
        super().__init__()
        self._inputs, self._output, self._ties = list(program["inputs"]), program["output"], dict(program["ties"])
        if not all(isinstance(name, str) for name in _listed(self._output)):
            raise CheckpointRefused("the program's outputs are no list of names")
        if len(answer_names(program)) != len(_listed(self._output)):
            raise CheckpointRefused("the program does not have one name for each of its outputs")
        if len(program["steps"]) > MOST_STEPS:
            raise CheckpointRefused(f"the program has {len(program['steps'])} steps; at most {MOST_STEPS} are run")
        for path, about in program["layers"].items():
            put(self, path, layer_of(about))
        for name, (dtype, shape, trained) in program["tensors"].items():
            put_tensor(self, name, torch.empty(shape, dtype=NAMED[dtype]), trained)
        self._steps = [(_runner(step), *_rest(step)) for step in program["steps"]]
        self._last = _last_uses(self._steps, self._output)
        self.matrices = raw_matrices(program)  # among its own tensors

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(inputs)

    def run(self, inputs: Sequence[Tensor], before: Before | None = None) -> Any:
        """The answer. `before` is called with each step's number and arguments, and gives those to go on with.

        Raises ValueError.
        """
        if len(inputs) != len(self._inputs):
            raise ValueError(f"The program takes {', '.join(self._inputs)}; {len(inputs)} inputs were given.")
        values: dict[str, Any] = {f"%{index}": tensor for index, tensor in enumerate(inputs)}
        for number, (run, result, args, kwargs) in enumerate(self._steps):
            given = [self._value(arg, values) for arg in args]
            named = {key: self._value(arg, values) for key, arg in kwargs.items()}
            _keep(values, result, run(self, *(given if before is None else before(number, given)), **named))
            for name in self._last.get(number, ()):
                values.pop(name, None)
        return self._value(self._output, values)

    def _value(self, arg: Any, values: Mapping[str, Any]) -> Any:
        if isinstance(arg, list):
            return [self._value(item, values) for item in arg]
        if not isinstance(arg, str):
            return arg
        if arg[0] == "%":
            return values[arg]
        if arg[0] == "@":
            path, _, last = arg[1:].rpartition(".")
            return getattr(self.get_submodule(path), last)
        kind, _, rest = arg.partition(":")
        if kind == "batch":
            return values["%0"].shape[0] * int(rest)
        if kind == "device":
            return values["%0"].device
        return CONSTANTS[kind](rest)


def answer_names(program: Mapping[str, Any]) -> list[str]:
    """What its outputs are called in a file that names them."""
    outputs = _listed(program["output"])
    return list(program.get("answers") or (f"output_{i}" for i in range(len(outputs)))) if outputs[1:] else ["logits"]


def _listed(output: Any) -> list[Any]:
    return output if isinstance(output, list) else [output]


def put(root: nn.Module, path: str, part: nn.Module) -> None:
    """Sets a module at a dotted path, making those between. Raises CheckpointRefused for a name that is taken."""
    *parents, last = path.split(".")
    try:
        for name in parents:
            if name not in root._modules:
                root.add_module(name, nn.Module())
            root = root.get_submodule(name)
        root.add_module(last, part)
    except (AttributeError, KeyError) as error:
        raise CheckpointRefused(f"a layer is called {path}, which torch modules keep for themselves") from error


def put_tensor(root: nn.Module, name: str, tensor: Tensor, trained: bool) -> None:
    """Sets a parameter or a buffer under a dotted name. Raises CheckpointRefused for a name that is taken."""
    path, _, last = name.rpartition(".")
    try:
        if path and (path.split(".")[0] not in root._modules or not _has(root, path)):
            put(root, path, nn.Module())
        owner = root.get_submodule(path)
        if trained and tensor.is_floating_point():
            owner.register_parameter(last, nn.Parameter(tensor))
        else:
            owner.register_buffer(last, tensor)
    except (AttributeError, KeyError) as error:
        raise CheckpointRefused(f"a tensor is called {name}, which torch modules keep for themselves") from error


def _has(root: nn.Module, path: str) -> bool:
    try:
        root.get_submodule(path)
    except AttributeError:
        return False
    return True


def _runner(step: list[Any]) -> Callable[..., Any]:
    name = step[0]
    if name == LAYER:
        return lambda module, path, x: module.get_submodule(path)(x)
    if name == DROPOUT:
        return lambda module, x, share: functional.dropout(x, share, module.training)
    found = operator_of(name)
    if found is None:
        raise CheckpointRefused(f"the program has a step {quoted(name)}, which is no operator that Pare runs")
    return lambda module, *args, **kwargs: found(*args, **kwargs)


def _rest(step: list[Any]) -> tuple[Any, list[Any], dict[str, Any]]:
    """(result, arguments, named arguments). A layer's path is the one plain string among arguments."""
    args = list(step[2])
    if step[0] == LAYER:
        args[0] = f"string:{args[0]}"
    return step[1], args, dict(step[3]) if len(step) > 3 else {}


def _keep(values: dict[str, Any], result: Any, found: Any) -> None:
    if isinstance(result, list):
        for name, part in zip(result, found, strict=False):
            if name is not None:
                values[name] = part
    elif result is not None:
        values[result] = found


def names_in(arg: Any) -> Iterator[str]:
    """The values and tensors that an argument names, with their signs."""
    if isinstance(arg, list):
        for item in arg:
            yield from names_in(item)
    elif isinstance(arg, dict):
        yield from names_in(list(arg.values()))
    elif isinstance(arg, str) and arg[:1] in ("%", "@"):
        yield arg


def _last_uses(steps: list[Any], output: Any) -> dict[int, list[str]]:
    """Step -> the values that nobody reads after it; the first input stays, for its batch."""
    last = {name: number for number, (_, _, args, kwargs) in enumerate(steps) for name in names_in([args, kwargs])}
    found: dict[int, list[str]] = {}
    for name, number in last.items():
        if name[0] == "%" and name != "%0" and name not in set(names_in(output)):
            found.setdefault(number, []).append(name)
    return found
