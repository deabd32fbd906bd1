"""A module that runs although it does not fit in memory: of its rows of blocks one block at a time is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from greenlet import getcurrent, greenlet

from webapp.engine.lazy import Tensor, functional, nn, torch
from webapp.engine.weights import Encoded
from webapp.engine.weights.memory import release_freed_memory
from webapp.engine.weights.model import Model

from .build import build, fill, readers, skeleton_of, sources
from .rows import rows_of_blocks

WHOLE_BYTES = 128 << 20  # of floats: a smaller model is in memory as a whole
LARGE_BYTES = 16 << 20  # of floats of an embedding or a head: a smaller one is in memory
WAITING_BYTES = 512 << 20  # of what is given to the first block, of samples that wait for their turn in it


def float_bytes(model: Model) -> int:
    """Of the model's module, all of it, in float32."""
    return sum(4 * model.plan(name).params for name in model.weights)


def runnable(model: Model, large_bytes: int | None = None) -> nn.Module:
    """The module of a model in eval mode, for answers: `answered` has it go through many batches.

    A large one reads each block from the model's file when its turn comes, so it is no module to train or to time.
    Of an embedding or a head of more than `large_bytes` of floats (LARGE_BYTES) it reads some rows at a time.
    """
    if float_bytes(model) <= WHOLE_BYTES:
        return build(model)
    module = skeleton_of(model)
    blocks = _blocks(module)
    if not blocks:
        return build(model)
    by_rows = set(_by_rows(model, module, LARGE_BYTES if large_bytes is None else large_bytes))
    outside = [name for name in module.state_dict() if not name.startswith(tuple(blocks)) and name not in by_rows]
    fill(module, sources(model, module), outside, model.tied)
    module.__dict__["stream"] = BlockStream(model, module, blocks)
    return module.eval()


def streams(module: nn.Module) -> bool:
    return "stream" in module.__dict__


def answered(calls: Sequence[Callable[[], Any]], module: nn.Module) -> Iterator[Any]:
    """What calls that run the module return, in order; of one that `runnable` made each block is read once for many."""
    stream: BlockStream | None = module.__dict__.get("stream")
    if stream is None:
        yield from (call() for call in calls)
        return
    left = list(calls)
    while left:
        yield from stream.through(left)


def _blocks(module: nn.Module) -> list[str]:
    """The prefixes of the names in all blocks of all rows that lie in no other's block."""
    rows = rows_of_blocks(module)
    outer = [path for path in rows if not any(path.startswith(f"{other}.") for other in rows)]
    return [f"{path}.{index}." for path in outer for index in range(len(list(module.get_submodule(path).children())))]


def _by_rows(model: Model, module: nn.Module, large_bytes: int) -> Iterator[str]:
    """Has a large embedding and a large head read only the rows that they need, or some at a time.

    Yields the names of their weights, which stay out of memory.
    """
    ways: dict[type, Callable[..., Tensor]] = {nn.Embedding: _looked_up, nn.Linear: _multiplied}
    ends = []
    for told in ("get_input_embeddings", "get_output_embeddings"):
        with suppress(AttributeError, NotImplementedError):  # as of modules that are none of transformers'
            ends.append(getattr(module, told)())
    names = set(model.names)
    for path, part in module.named_modules(remove_duplicate=False):
        name, way = f"{path}.weight", ways.get(type(part))
        if way is None or name not in names or not any(part is end for end in ends):
            continue
        if 4 * part.weight.numel() < large_bytes:
            continue
        part.forward = partial(way, part, partial(model.weight, name))
        yield name


def _looked_up(part: nn.Embedding, weight: Callable[[], Encoded], ids: Tensor) -> Tensor:
    """nn.Embedding's forward."""
    wanted, places = torch.unique(ids, return_inverse=True)
    return weight().rows(wanted).float()[places]


def _multiplied(part: nn.Linear, weight: Callable[[], Encoded], x: Tensor) -> Tensor:
    """nn.Linear's forward."""
    out, start = x.new_empty(*x.shape[:-1], part.out_features), 0
    for some in weight().slices():
        bias = None if part.bias is None else part.bias[start : start + len(some)]
        out[..., start : start + len(some)] = functional.linear(x, some.float(), bias)
        start += len(some)
    return out


class BlockStream:
    """The blocks' tensors, of which those of one block are in memory, at the place of those of the block before."""

    def __init__(self, model: Model, module: nn.Module, blocks: Sequence[str]) -> None:
        self.module, self.present, self.given_bytes = module, "", 0
        self.given = readers(model, module)
        self.names: dict[str, list[str]] = {prefix: [] for prefix in blocks}
        for name in module.state_dict():
            if prefix := next((prefix for prefix in blocks if name.startswith(prefix)), None):
                self.names[prefix].append(name.removeprefix(prefix))
        for prefix in blocks:
            part = module.get_submodule(prefix[:-1])
            part.register_forward_pre_hook(partial(self._reached, prefix), with_kwargs=True, prepend=True)

    def through(self, calls: list[Callable[[], Any]]) -> Iterator[Any]:
        """What some calls return, which are taken from `calls`: as many as may wait together, block by block.

        The answers, which are large, are worked out one by one, when they are asked for.
        """
        running: list[_WaitingCall] = []
        at: list[Any] = []  # of each the block that it waits at, or what it returned
        waiting = 0
        while calls and waiting < WAITING_BYTES:
            running.append(_WaitingCall(calls.pop(0)))
            at.append(running[-1].resumed())
            waiting += self.given_bytes
        for first, run in enumerate(running):
            while not run.dead:
                prefix = at[first]
                at[first] = run.resumed()
                for index in range(first + 1, len(running)) if not run.dead else ():
                    if not running[index].dead and at[index] == prefix:
                        at[index] = running[index].resumed()
            answer, at[first] = at[first], None
            yield answer
            del answer

    def _reached(self, prefix: str, part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        run = getcurrent()
        if isinstance(run, _WaitingCall):
            given = (value for value in (*args[:1], *kwargs.values()) if isinstance(value, Tensor))
            self.given_bytes = max((value.nbytes for value in given), default=0)
            run.parent.switch(prefix)
        if self.present != prefix:
            with torch.inference_mode(False), torch.no_grad():
                self._put(prefix, part)

    def _put(self, prefix: str, part: nn.Module) -> None:
        old: dict[str, Tensor] = {}
        if self.present:
            before = self.module.get_submodule(self.present[:-1])
            old = {name: tensor.detach() for name, tensor in before.state_dict(keep_vars=True).items()}
            away = {name: torch.empty_like(tensor, device="meta") for name, tensor in old.items()}
            before.load_state_dict(away, strict=False, assign=True)
        self.present = prefix
        wanted, values = part.state_dict(), {}
        for name in self.names[prefix]:
            place = old.pop(name, None)
            if not wanted[name].is_floating_point():
                place = None
            elif place is None or place.shape != wanted[name].shape or place.dtype != torch.float32:
                place = torch.empty(wanted[name].shape)
            values[name] = self.given[prefix + name](place)
        part.load_state_dict(values, strict=False, assign=True)
        release_freed_memory()  # holes between what was read and decoded, which would grow block by block


class _WaitingCall(greenlet):  # type: ignore[misc]
    """A call that waits where it reaches a block, and goes on when it is resumed."""

    def resumed(self) -> Any:
        self.parent = getcurrent()
        with torch.inference_mode():  # which each thread has one of: a call that ends leaves it as it was found
            return self.switch()
