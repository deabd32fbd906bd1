"""What a module computes on its way to the answer: hidden states and attention maps, kept by hooks."""

from __future__ import annotations

from typing import Any

from webapp.engine.lazy import Tensor, nn
from webapp.engine.techniques.calibration.sequential_calibration import row_of_blocks


class Watch:
    """`hidden` holds what each of `paths` put out in the last pass, `attention` the maps (B, heads, T, keys)."""

    def __init__(self, module: nn.Module, attention: bool = False) -> None:
        self.paths = steps_of(module)
        self.hidden: list[Tensor] = []
        self.attention: list[Tensor] = []
        for path in self.paths:
            module.get_submodule(path).register_forward_hook(self._keep_hidden)
        if attention:
            for part in module.modules():
                if "Attention" in type(part).__name__:
                    part.register_forward_hook(self._keep_attention)

    def clear(self) -> None:
        self.hidden, self.attention = [], []

    def _keep_hidden(self, part: nn.Module, args: Any, out: Any) -> None:
        self.hidden.append(out[0] if isinstance(out, tuple) else out)

    def _keep_attention(self, part: nn.Module, args: Any, out: Any) -> None:
        maps = out[1] if isinstance(out, tuple) and len(out) > 1 else None
        if isinstance(maps, Tensor) and maps.dim() == 4 and not any(maps is known for known in self.attention):
            self.attention.append(maps)


def steps_of(module: nn.Module) -> list[str]:
    """The blocks of a row of alike blocks; without such a row every linear layer and convolution but the last."""
    from webapp.engine.architectures.factored_layers import FactoredModule

    row = row_of_blocks(module)
    if row is not None:
        return [f"{row}.{index}" for index in range(len(list(module.get_submodule(row).children())))]
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, FactoredModule)
    found = [name for name, part in module.named_modules() if isinstance(part, kinds)]
    inside = {f"{name}." for name in found}
    return [name for name in found if not any(name.startswith(prefix) for prefix in inside)][:-1]


def paired(students: int, teachers: int) -> list[tuple[int, int]]:
    """Which of the student's steps learns from which of the teacher's: evenly apart, the last from the last."""
    return [(index, max(1, (index + 1) * teachers // students) - 1) for index in range(students)] if teachers else []
