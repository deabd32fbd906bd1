"""Which matrices of a block write to a residual stream: the sum that their outputs are added to is told by values.

LoaQ (Lin et al. 2025, https://arxiv.org/abs/2509.06297) has such a matrix make up for what the stream lacks as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple

from webapp.engine.lazy import Tensor, nn, torch

NEAR = 1e-4  # of the largest value of a sum: as far as rounding may take it from that of its parts
SOME = 1024  # values that are looked at first


class ResidualPlace(NamedTuple):
    """What the module at `path` ("": the block) is given, or what it puts `out`."""

    path: str
    out: bool

    def watch(self, module: nn.Module, told: Callable[[Any], None]) -> Any:
        """A handle of the hook that tells each tensor that comes by."""

        def before(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            told(args[0] if args else named.get("hidden_states"))  # a block's own input

        def after(_: nn.Module, args: tuple[Any, ...], found: Any) -> None:
            told(found[0] if isinstance(found, tuple) else found)

        part = module.get_submodule(self.path)
        return (
            part.register_forward_hook(after) if self.out else part.register_forward_pre_hook(before, with_kwargs=True)
        )


def residual_places(module: nn.Module, run: Callable[[], Tensor], paths: Iterable[str]) -> dict[str, ResidualPlace]:
    """By the path of each module whose output y is added to a stream r: where r comes by, before that module runs.

    Told by a pass: some module is given, or the block puts out, r + y, and r came by before. Other outputs go through a
    norm, a product or a gate first, and are left out.
    """
    seen: list[tuple[ResidualPlace, Tensor]] = []

    def note(place: ResidualPlace) -> Callable[[Any], None]:
        def told(value: Any) -> None:
            if isinstance(value, Tensor) and value.is_floating_point():
                seen.append((place, value))

        return told

    with ExitStack() as stack, torch.no_grad():
        for path, _ in module.named_modules():
            for out in (False, True):
                place = ResidualPlace(path, out)
                stack.callback(place.watch(module, note(place)).remove)
        run()
    found: dict[str, ResidualPlace] = {}
    for path in paths:
        at = [number for number, (place, _) in enumerate(seen) if place.path == path]
        if len(at) == 2:  # it ran once
            stream = _stream(seen, *at)
            if stream is not None:
                found[path] = stream
    return found


def _stream(seen: list[tuple[ResidualPlace, Tensor]], given: int, put_out: int) -> ResidualPlace | None:
    y = seen[put_out][1]
    for _, total in seen[put_out + 1 :]:
        if total.shape != y.shape or total is y:
            continue
        for place, r in seen[:given]:
            if (
                r.shape == y.shape
                and _adds_up(*(x.reshape(-1)[:SOME] for x in (r, y, total)))
                and _adds_up(r, y, total)
            ):
                return place
    return None


def _adds_up(r: Tensor, y: Tensor, total: Tensor) -> bool:
    return torch.allclose(total - y, r, rtol=0.0, atol=NEAR * float(total.abs().max()))
