"""A network whose steps came with its weights: an exported program, or a file that Pare made of one.

A program is a list of steps on tensors: data that can be read from an untrusted file. A step names an operator of a
fixed list (`operators`) or one of the network's layers (`layers`); nothing in it is evaluated, imported or unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

from webapp.engine.architectures.base import Architecture
from webapp.engine.errors import CheckpointRefused
from webapp.engine.facts import ArchitectureSpec, Task, TensorFacts
from webapp.engine.lazy import nn, torch

from .module import ProgramModule, answer_names

MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError)
MOST_VALUES = 2**27  # of one sample, or tokens times their kinds: beyond any input there is
INPUTS = {"names", "shape", "tokens", "vocab", "length"}


class ProgramArchitecture(Architecture):
    family: ClassVar[str] = "program"
    priority: ClassVar[int] = 5

    @classmethod
    def recognise(cls, tensors: Mapping[str, TensorFacts], config: dict[str, Any] | None) -> ArchitectureSpec | None:
        told = (config or {}).get("pare_architecture")
        if not isinstance(told, dict) or told.get("family") != cls.family:
            return None
        try:
            _check_inputs(told["inputs"])
            program, task = dict(told["program"]), told["task"]
            shapes = tuple(tuple(int(size) for size in shape) for shape in told.get("outputs", ()))
            if task not in (None, *get_args(Task)) or not isinstance(told["title"], str):
                raise ValueError(f"task {task!r}")
            settings = {"program": program, "classes": None if told["classes"] is None else int(told["classes"])}
            spec = ArchitectureSpec(
                family=cls.family,
                title=told["title"][:100],
                task=task,
                config=settings,
                inputs=told["inputs"],
                outputs=shapes,
            )
            expected = {name: tuple(value.shape) for name, value in cls.skeleton(spec).state_dict().items()}
        except MALFORMED as error:
            raise CheckpointRefused(f"the file tells its program in a form that Pare does not know: {error}") from error
        ties = program["ties"]
        for name, shape in expected.items():
            there = tensors.get(name) or tensors.get(ties.get(name, ""))
            if there is None or there.shape != shape:
                found = "is not in the file" if there is None else f"has shape {list(there.shape)}"
                raise CheckpointRefused(f"{name} {found}; its program expects {list(shape)}")
        return spec

    @classmethod
    def skeleton(cls, spec: ArchitectureSpec) -> nn.Module:
        with torch.device("meta"):
            return ProgramModule(spec.config["program"]).eval()

    @classmethod
    def ties(cls, module: nn.Module) -> dict[str, str]:
        return dict(module._ties) if isinstance(module, ProgramModule) else {}


def output_names(spec: ArchitectureSpec) -> list[str]:
    """What a delivered file calls the outputs of a model that is none of transformers."""
    return answer_names(spec.config["program"]) if spec.family == ProgramArchitecture.family else ["logits"]


def _check_inputs(inputs: Mapping[str, Any]) -> None:
    """Raises ValueError unless these are what `batches.synthetic` can make in reasonable room."""
    numbers = [inputs[key] for key in ("tokens", "vocab", "length") if key in inputs]
    sides = [side for side in inputs.get("shape", ()) if side is not None]
    if not set(inputs) <= INPUTS or not all(type(number) is int and number > 0 for number in (*numbers, *sides)):
        raise ValueError("its inputs are no shape")
    values = 1
    for side in (*sides, *numbers[:1]):
        values *= side
    if values > MOST_VALUES or not all(isinstance(name, str) for name in inputs["names"]):
        raise ValueError(f"its inputs are larger than {MOST_VALUES} values")
