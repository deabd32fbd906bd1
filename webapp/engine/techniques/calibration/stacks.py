"""The experts of a mixture, stacked in one tensor: each is a matrix, with the inputs that the router sends to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from webapp.engine.facts import LayerFacts, Layout
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.weights import Dense, Encoded, GgmlBlocks, Quantized
from webapp.engine.weights.model import Model

from .matrices import WeightMatrix
from .statistics import Statistic

if TYPE_CHECKING:
    from .block import CalibrationBlock

UP = ("gate_up_proj", "up_proj")  # what reads the hidden states; down_proj reads what comes of them
Kept = TypeVar("Kept", bound=Statistic)


@dataclass(frozen=True)
class Stack:
    """One tensor of a module of experts as transformers has them, called with hidden states and the router's choice."""

    matrix: WeightMatrix  # of the whole tensor

    @property
    def layer(self) -> LayerFacts:
        return self.matrix.layer

    def collected(
        self, block: CalibrationBlock, make: Callable[[int, int], Kept]
    ) -> Iterator[tuple[WeightMatrix, Kept]]:
        """Each expert's own matrix, with the statistic of what it multiplies."""
        path, _, name = self.layer.weight.rpartition(".")
        part: Any = block.module.get_submodule(path.removeprefix(block.prefix))
        whole = self.matrix.encoded.decode()
        columns = self.matrix.layout.inputs(tuple(whole.shape))
        made = [make(1, columns) for _ in range(len(whole))]
        with _calls(part) as seen, torch.no_grad():
            for run in block.runs:
                run()
                while seen:
                    for expert, rows in _sent(*seen.pop(0), len(whole)):
                        x = rows if name in UP else _between(part, rows, expert)
                        made[expert].add(x.float()[:, None])
        pruned, layout = self.matrix.encoded.plan.pruned, Layout(self.matrix.layout.transposed)
        for expert, statistic in enumerate(made):
            own = Model({self.layer.weight: Dense(whole[expert].clone(), zeros_wanted=pruned)})
            yield WeightMatrix(self.layer, f"{self.layer.name}.{expert}", "", layout, own), statistic

    def keep(self, block: CalibrationBlock, encoded: Encoded) -> None:
        self.matrix.keep(encoded)
        path, _, name = self.layer.weight.rpartition(".")
        weight = getattr(block.module.get_submodule(path.removeprefix(block.prefix)), name)
        weight.data = encoded.decode().to(weight.dtype)
        block.changed()


def stacks_of(model: Model, layers: Iterable[LayerFacts], module: nn.Module) -> list[Stack]:
    """Those whose inputs can be seen, in the order in which they run."""
    found = []
    for layer in layers:
        path, _, name = layer.weight.rpartition(".")
        part = module.get_submodule(path)
        if layer.kind == "experts" and name in (*UP, "down_proj") and hasattr(part, "_apply_gate"):
            found.append(Stack(WeightMatrix(layer, layer.name, "", layer.layout, model)))
    return sorted(found, key=lambda stack: stack.layer.weight.endswith("down_proj"))


def put_together(stack: Stack, experts: Sequence[Encoded]) -> Encoded | None:
    """The stack of these matrices; None where each has a table of levels of its own."""
    whole = stack.matrix.encoded
    if isinstance(experts[0], GgmlBlocks):
        blocks = torch.cat([expert.blocks for expert in experts if isinstance(expert, GgmlBlocks)])
        return GgmlBlocks(blocks, experts[0].type, whole.shape, whole.dtype, stack.matrix.layout)
    parts = [expert for expert in experts if isinstance(expert, Quantized)]
    if not parts:
        return Dense(torch.stack([expert.decode() for expert in experts]), zeros_wanted=experts[0].plan.pruned)
    first = parts[0].grid
    if first.levels is not None and any(not torch.equal(first.levels, part.grid.levels) for part in parts[1:]):  # type: ignore[arg-type]
        return None
    grid = first.with_scales(*(part.grid.scale for part in parts))
    if first.zero_point is not None:
        grid = grid.with_zero_points(*(part.grid.zero_point for part in parts if part.grid.zero_point is not None))
    codes = torch.cat([part.codes for part in parts])
    return Quantized(codes, grid, whole.shape, whole.dtype, stack.matrix.layout, whole.plan.pruned)


class _calls:
    """What a module is called with, while it is watched."""

    def __init__(self, part: nn.Module) -> None:
        self.part, self.seen = part, list[tuple[Tensor, Tensor]]()

    def __enter__(self) -> list[tuple[Tensor, Tensor]]:
        def before(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            hidden, chosen = [*args, *named.values()][:2]
            self.seen.append((hidden.detach(), chosen.detach()))

        self.handle = self.part.register_forward_pre_hook(before, with_kwargs=True)
        return self.seen

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def _sent(hidden: Tensor, chosen: Tensor, experts: int) -> Iterator[tuple[int, Tensor]]:
    """(expert, the rows of hidden (tokens, in) that go to it), by chosen (tokens, k)."""
    hidden = hidden.reshape(-1, hidden.shape[-1])
    for expert in range(experts):
        rows = hidden[(chosen.reshape(len(hidden), -1) == expert).any(1)]
        if len(rows):
            yield expert, rows


def _between(part: Any, x: Tensor, expert: int) -> Tensor:
    """What an expert's second matrix is given."""
    name = UP[0] if part.has_gate else UP[1]
    weight = getattr(part, name)[expert]
    made = x @ (weight if part.is_transposed else weight.t())
    made = made + getattr(part, f"{name}_bias")[expert] if part.has_bias else made
    found: Tensor = part._apply_gate(made) if part.has_gate else part.act_fn(made)
    return found
