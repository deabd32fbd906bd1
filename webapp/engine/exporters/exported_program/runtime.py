"""An exported program that was loaded, run like the model's own module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from webapp.engine.facts import ArchitectureSpec


class ExportedProgramModule(nn.Module):
    """The program, called like the model's own module."""

    def __init__(self, program: ExportedProgram, spec: ArchitectureSpec) -> None:
        super().__init__()
        self.program, self.named = program.module(), spec.family == "transformers"
        self.inputs = list(program.graph_signature.user_inputs)

    def forward(self, *given: Tensor, use_cache: bool = False, **named: Tensor) -> Any:
        """A tokenizer may tell more than the program was made to take: of single texts, the kinds of tokens, all 0."""
        inputs = named if self.named else dict(zip(self.inputs, given, strict=True))
        found = self.program(**{name: inputs[name] for name in self.inputs})
        return list(found.values()) if isinstance(found, dict) and not self.named else found
