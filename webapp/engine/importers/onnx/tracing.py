"""From an ONNX graph to the same JSON and tensors that a file of torch.export.save holds.

The graph is followed by torch.export with stand-ins that have shapes and no numbers: nothing of it runs on weights.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from webapp.engine.architectures.program.module import ProgramModule
from webapp.engine.importers.exported_program.archive import ProgramArchive
from webapp.engine.importers.exported_program.serialized import NotRun
from webapp.engine.lazy import torch
from webapp.engine.weights.safetensors import LazyTensor

from .graph import COPY, Graph, GraphInput
from .interpreter import GraphModule, asked_for, known_tensors, trained
from .simplify import GraphPart, simplified
from .values import FLOAT, INT

LIFTED = "lifted_tensor"  # what torch.export calls constants that it met on its way
FREE = (3, 7)  # samples, and tokens, of a size that is free
SIDE = 32  # places along an axis that is free
FAILURES = (
    RuntimeError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
)
NUMBERED = re.compile(
    r"(onnx::)?\w*?[_.]?\d+|(val|_val|_to_copy|const\w*?|constant\w*|\w*const_fold_opt\w*|\w+_output_\d+)"
    r"[_.]*\d*(__\d+)?|.*/Constant(_\d+)?_output_0|.*__\d+",
    re.IGNORECASE,
)
KEPT = frozenset({"_inputs", "_output", "_ties", "_steps", "_last", "matrices", "training"})
DEEPEST, LONGEST = 12, 100  # parts of a name, characters of a part
READ = re.compile(r"[/.](ReadVariableOp|Cast/ReadVariableOp)(_\d+)?(:0)?$|:0$")  # how TensorFlow ends a variable's


def names_of(tensors: Iterable[str], parts: Mapping[str, GraphPart], taken: str) -> dict[str, str]:
    """Name in the file -> dotted name, no two the same and none within another. None begins with `taken`.

    Exporters number the weights that they transposed or folded ("onnx::MatMul_426", "val_83"); these are called after
    the module that their node tells, or after their bias.
    """
    made: dict[str, str] = {}
    used: set[str] = set()
    owners: set[str] = set()  # paths that hold tensors
    for name in tensors:
        wanted = _clean(_told(name, parts))
        if wanted.startswith(taken):
            wanted = f"{wanted}_".replace(taken, f"{taken}_", 1)
        number, first = 2, wanted
        while wanted in used or wanted in owners or any(parent in used for parent in _parents(wanted)):
            stem, dot, last = first.rpartition(".")
            wanted = f"{stem}_{number}.{last}" if dot and name in parts else f"{first}_{number}"
            wanted = wanted.replace(".", "_") if number > 1000 else wanted
            number += 1
        used.add(wanted)
        owners.update(_parents(wanted))
        made[name] = wanted
    return made


def _parents(name: str) -> list[str]:
    pieces = name.split(".")
    return [".".join(pieces[:count]) for count in range(1, len(pieces))]


def _told(name: str, parts: Mapping[str, GraphPart]) -> str:
    part, (original, copied, _) = parts.get(name), name.partition(COPY)
    if part is not None and part.path and (copied or NUMBERED.fullmatch(name)):
        return f"{part.path}.{part.part}"
    return original


def _clean(name: str) -> str:
    pieces = re.split(r"[./]", READ.sub("", name[-2000:]).strip("./").replace("::", "."))
    return ".".join(_piece(piece) for piece in pieces[-DEEPEST:] if piece) or "tensor"


def _piece(piece: str) -> str:
    clean = re.sub(r"\W", "_", piece[-LONGEST:], flags=re.ASCII).lstrip("_") or "tensor"
    return f"{clean}_" if hasattr(ProgramModule, clean) or clean in KEPT else clean


def archived(graph: Graph, free: bool, side: int | None = None) -> ProgramArchive:
    """The program of a graph. `free` takes its first axis as free even where the file says a size; with `side`, free
    axes of places are of that size.

    Raises NotRun.
    """
    if free and graph.inputs and graph.inputs[0].shape[:1] == (1,):
        graph = replace(graph, nodes=tuple(replace(node, freed=True) for node in graph.nodes))
    graph, parts = simplified(graph)
    names = names_of(graph.tensors, parts, LIFTED)
    layered = trained(graph, parts)
    known = known_tensors(graph)
    content, constants = _traced(graph, (names, layered, known), free, side)
    tensors = {names[name]: _as_run(held) for name, held in graph.tensors.items() if name not in known}
    buffers = frozenset(names[name] for name in graph.tensors if name not in layered)
    tensors |= {name: _held(value) for name, value in constants.items()}
    aliases: dict[str, list[str]] = {name: [] for name in tensors}
    return ProgramArchive(content, tensors, aliases, buffers | set(constants), graph.left_out, asked_for(graph))


def _held(value: torch.Tensor) -> LazyTensor:
    return LazyTensor(tuple(value.shape), value.dtype, lambda: value)


def _as_run(held: LazyTensor) -> LazyTensor:
    """Whole numbers are of one type."""
    if held.dtype.is_floating_point or held.dtype in (torch.bool, INT):
        return held
    return LazyTensor(held.shape, INT, lambda: held.load().to(INT))


def _traced(
    graph: Graph, about: tuple[Any, Any, Any], free: bool, side: int | None
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from torch._export.serde.serialize import serialize

    mode = FakeTensorMode(shape_env=ShapeEnv())
    with mode:
        module = GraphModule(graph, *about).eval()
        asked = set(asked_for(graph))
        inputs = [item for item in graph.inputs if item.name in asked]
        given = tuple(_example(item, free, side) for item in inputs)
    if not given:
        raise NotRun("takes no input")
    axes = tuple(_free_axes(item, free, side) for item in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _quiet():
                program = torch.export.export(module, given, dynamic_shapes=(axes,), strict=False)
                made = serialize(
                    program,
                    serialize_state_dict=False,
                    serialize_constants=False,
                    serialize_example_inputs=False,
                )
        except NotRun:
            raise
        except FAILURES as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise NotRun(f"cannot be followed ({first[:200]})") from error
    constants = {name: value for name, value in program.constants.items() if isinstance(value, torch.Tensor)}
    return json.loads(made.exported_program), constants


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log of what is raised anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _sizes(item: GraphInput, free: bool, side: int | None) -> Sequence[int]:
    first, *rest = item.shape or (1,)
    batch = FREE[0] if free or first is None else first
    places = FREE[1] if not item.floats else side or SIDE
    return [batch, *(places if size is None else size for size in rest)]


def _example(item: GraphInput, free: bool, side: int | None) -> torch.Tensor:
    return torch.zeros(tuple(_sizes(item, free, side)), dtype=FLOAT if item.floats else INT)


def _free_axes(item: GraphInput, free: bool, side: int | None) -> dict[int, Any]:
    """AUTO is as free as the graph allows."""
    return {
        axis: Dim.AUTO if (size is None and (not item.floats or side is None)) or (axis == 0 and free) else Dim.STATIC
        for axis, size in enumerate(item.shape)
    }
