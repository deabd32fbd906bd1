"""A program that was read from an upload, as a checkpoint that runs: its layers found, its answer tried."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from webapp.engine.architectures.program.layers import layer_of
from webapp.engine.architectures.program.module import LAYER, names_in
from webapp.engine.errors import CheckpointRefused, some
from webapp.engine.importers.base import Opened
from webapp.engine.weights.safetensors import LazyTensor, dtype_name

from .archive import ProgramArchive
from .lifting import Lifted, lift
from .serialized import NotRun, ProgramDraft, drafted
from .trial import described

NAMED = 6  # tensors that a note lists


def assembled(
    draft: ProgramDraft, lifted: Lifted, tensors: Mapping[str, LazyTensor], names: list[str]
) -> dict[str, Any]:
    """The program, called with inputs of these `names`. `tensors` by their new names."""
    steps = _read_only(lifted.steps, draft.outputs)
    numbers = {f"%{given.name}": f"%{index}" for index, given in enumerate(draft.inputs)}
    for _, result, *_ in steps:
        for name in result if isinstance(result, list) else [result]:
            if name is not None:
                numbers.setdefault(name, f"%{len(numbers)}")
    floats = {dtype_name(tensor.dtype) for tensor in tensors.values() if tensor.dtype.is_floating_point}
    wide = {f"dtype:{name}": "dtype:float32" for name in floats if name != "float32"}

    def written(arg: Any) -> Any:
        if isinstance(arg, list):
            return [written(item) for item in arg]
        if isinstance(arg, dict):
            return {key: written(item) for key, item in arg.items()}
        return wide.get(arg, numbers.get(arg, arg)) if isinstance(arg, str) else arg

    run = {step[2][0] for step in steps if step[0] == LAYER}
    held = {name.removeprefix("@") for step in steps for name in names_in([step[2], *step[3:]]) if name[0] == "@"}
    return {
        "inputs": names,
        "tensors": {
            name: [dtype_name(tensors[name].dtype), list(tensors[name].shape), draft.tensors[name] == "parameter"]
            for name in sorted(held)
        },
        "layers": {path: about for path, about in lifted.layers.items() if path in run},
        "ties": {alias: name for alias, name in lifted.ties.items() if alias.rpartition(".")[0] in run},
        "output": written(draft.outputs if len(draft.outputs) > 1 else draft.outputs[0]),
        **(
            {"answers": _answers(draft.answers, {*names, *tensors})} if draft.answers and len(draft.outputs) > 1 else {}
        ),
        "steps": [[step[0], *written(step[1:])] for step in steps],
    }


def _answers(told: list[str], taken: set[str]) -> list[str]:
    """The outputs' names, plain and each once: a graph has one value of a name."""
    found: list[str] = []
    for name in told:
        clean = re.sub(r"[^\w.:/-]", "_", name)[:80] or "_"
        while clean in taken:
            clean += "_"
        taken.add(clean)
        found.append(clean)
    return found


def _read_only(steps: list[list[Any]], outputs: list[str]) -> list[list[Any]]:
    """The steps whose results reach an output, and those that write into what they are given."""
    wanted, kept = set(outputs), []
    for step in reversed(steps):
        results = step[1] if isinstance(step[1], list) else [step[1]]
        writes = step[0].split(".")[1:2] and step[0].split(".")[1].endswith("_") and "__" not in step[0]
        if wanted & set(results) or writes:
            wanted |= set(names_in([step[2], *step[3:]]))
            kept.append(step)
    return kept[::-1]


def tensor_names(program: Mapping[str, Any]) -> list[str]:
    """The names of everything that the program's module has to be given, ties left out."""
    own = [f"{path}.{name}" for path, about in program["layers"].items() for name in layer_of(about).state_dict()]
    return [name for name in (*own, *program["tensors"]) if name not in program["ties"]]


def opened_program(archived: ProgramArchive, made: str = "", rows_apart: bool = False) -> Opened:
    """The layers found, and the program tried. `rows_apart` also compares a batch's answers with those of each sample.

    Raises NotRun, CheckpointRefused, or LookupError, TypeError, ValueError and AttributeError for another form.
    """
    draft = drafted(archived.content)
    draft.called = archived.inputs
    if made:
        draft.title, draft.made = "", made
    missing = [name for name in draft.tensors if name not in archived.tensors]
    if missing:
        raise CheckpointRefused(f"the program needs {missing[0]}, which is not in the archive; upload it again")
    if not draft.outputs:
        raise NotRun("answers with no tensor")
    shapes = {name: archived.tensors[name].shape for name in draft.tensors}
    lifted = lift(draft, shapes, archived.aliases)
    held = {new: archived.tensors[old] for new, old in lifted.renamed.items()}
    renamed = {new: each.turned() if new in lifted.transposed else each for new, each in held.items()}
    answers = len(draft.outputs) + archived.left_out
    told = _tried(draft, lambda names: assembled(draft, lifted, renamed, names), renamed, rows_apart)
    wanted = tensor_names(told["program"])
    turned = [name for name in wanted if name in lifted.transposed and type(held[name]) is LazyTensor]
    return Opened(
        tensors={name: renamed[name] for name in wanted},
        tied=dict(told["program"]["ties"]),
        metadata={"pare_architecture": json.dumps({"family": "program", **told}, separators=(",", ":"))},
        notes=_notes(draft, lifted, wanted, turned, archived, answers),
        infinite=archived.buffers,
    )


def _tried(
    draft: ProgramDraft,
    make: Callable[[list[str]], dict[str, Any]],
    tensors: Mapping[str, LazyTensor],
    rows_apart: bool,
) -> dict[str, Any]:
    """With all of its outputs, or with the one that a task is about where only that can be run."""
    try:
        return described(draft, make, tensors, rows_apart)
    except NotRun:
        if len(draft.outputs) == 1:
            raise
    draft.keep([draft.main])
    return described(draft, make, tensors, rows_apart)


def _notes(
    draft: ProgramDraft, lifted: Lifted, wanted: list[str], turned: list[str], archived: ProgramArchive, answers: int
) -> list[str]:
    """`turned` are the tensors that are stored the other way round than they came."""
    notes = []
    renamed = {
        old: new for new, old in lifted.renamed.items() if new in wanted and new not in (old, *archived.aliases[old])
    }
    if renamed:
        pairs = [f"{old} is {new}" for old, new in renamed.items()]
        notes.append(f"The names of layers that it did not tell: {some(pairs, NAMED)}.")
    if turned:
        notes.append(f"Stored transposed, as (outputs, inputs): {some(turned, NAMED)}.")
    used = {lifted.renamed[name] for name in wanted}
    used |= {alias for name in used for alias in archived.aliases[name]}
    if unused := [name for name in archived.tensors if name not in used and not name.endswith("num_batches_tracked")]:
        notes.append(f"Left out, because no step uses them: {some(unused, NAMED)}.")
    if len(draft.outputs) < answers:
        notes.append(
            f"It answers with {answers} tensors, of which {len(draft.outputs)} can be delivered: one with a row for "
            "each sample, by steps that are followed here, and of a language model the scores alone."
        )
    if draft.trains:
        notes.append("It was exported in training mode; its norms and dropout run here as they do in evaluation.")
    return notes
