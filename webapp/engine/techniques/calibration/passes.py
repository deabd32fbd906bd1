"""A forward pass that stops where a layer is about to be given its input, and goes on when it is told to.

So the layers of a block are compressed one after the other, each on what the compressed ones before it put out, and
every sample still goes through the block only once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from greenlet import getcurrent, greenlet

from webapp.engine.lazy import Tensor, nn, torch


class Pass:
    """One batch on its way through a module with `stops` on the way: `stop` is the one it has reached."""

    def __init__(self, run: Callable[[], Tensor], stops: int) -> None:
        self.stop, self._end = -1, stops
        self._value = torch.empty(0)
        self._flow = greenlet(lambda: (self._end, run()))

    def input_at(self, stop: int) -> Tensor | None:
        """What the layer there is given; None where the batch does not come by."""
        while self.stop < stop:
            with torch.no_grad():
                self.stop, self._value = self._flow.switch()
        return self._value if self.stop == stop else None

    def end(self) -> Tensor:
        """What comes out of the module."""
        found = self.input_at(self._end)
        assert found is not None
        return found


@contextmanager
def stops(modules: Sequence[nn.Module], paths: Sequence[str]) -> Iterator[None]:
    """Passes through these modules stop before each of their parts at `paths`, which are called in this order."""
    home = getcurrent()

    def pause(stop: int) -> Callable[..., None]:
        def before(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if getcurrent() is not home:
                home.switch((stop, args[0]))

        return before

    handles = [
        module.get_submodule(path).register_forward_pre_hook(pause(stop))
        for module in modules
        for stop, path in enumerate(paths)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
