"""What a program is made from: the JSON that torch.export writes, and its tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from webapp.engine.weights.safetensors import LazyTensor


@dataclass
class ProgramArchive:
    """`content` is the program's JSON; tensors are not in memory yet, each storage under the first of its names."""

    content: dict[str, Any]
    tensors: dict[str, LazyTensor]
    aliases: dict[str, list[str]] = field(default_factory=dict)
    buffers: frozenset[str] = frozenset()
    left_out: int = 0  # outputs of the file that the JSON does not have
    inputs: list[str] = field(default_factory=list)  # what they are called, where the JSON does not tell

    def untied(self) -> tuple[dict[str, LazyTensor], dict[str, str]]:
        """(tensors, each once; alias -> the name that it is under)."""
        tied: dict[str, str] = {}
        for name in self.tensors:
            tied |= {alias: name for alias in self.aliases[name] if name not in tied}
        return {name: tensor for name, tensor in self.tensors.items() if name not in tied}, tied
