"""What the tensors of a graph are called here: as in the file, as far as a torch module can hold such names.

Exporters number the weights that they turned or folded ("onnx::MatMul_426", "val_83"); these are called after the
module that their node tells, or after their bias.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from webapp.engine.architectures.program.module import ProgramModule

from .simplify import COPY, GraphPart

NUMBERED = re.compile(
    r"(onnx::)?\w*?[_.]?\d+|(val|_val|_to_copy|const\w*?|constant\w*|\w*const_fold_opt\w*|\w+_output_\d+)"
    r"[_.]*\d*(__\d+)?|.*/Constant(_\d+)?_output_0|.*__\d+",
    re.IGNORECASE,
)
KEPT = frozenset({"_inputs", "_output", "_ties", "_steps", "_last", "matrices", "training"})
DEEPEST, LONGEST = 12, 100  # parts of a name, characters of a part
READ = re.compile(r"[/.](ReadVariableOp|Cast/ReadVariableOp)(_\d+)?(:0)?$|:0$")  # how TensorFlow ends a variable's


def names_of(tensors: Iterable[str], parts: Mapping[str, GraphPart], taken: str) -> dict[str, str]:
    """Name in the file -> dotted name, no two the same and none within another. None begins with `taken`."""
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
