"""What a program is called with and what it does, found by running it on seeded inputs with its own weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from webapp.engine.architectures.program.module import LAYER, ProgramModule
from webapp.engine.data.batches import synthetic
from webapp.engine.errors import CheckpointRefused
from webapp.engine.facts import ArchitectureSpec, Task
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.weights.safetensors import LazyTensor

from .serialized import NotRun, ProgramDraft, ProgramInput

TEXT = ("input_ids", "attention_mask", "token_type_ids")  # what a tokenizer gives, by the names transformers has
TOKENS = 512  # where the program allows any number
MOST_TOKENS = 1_000_000
SAME_CHOICES = 0.99  # share of whole numbers
EXPORT_AGAIN = "export it with dynamic_shapes, its first axis free"
SAME = ("aten.view.default", "aten.reshape.default", "aten.to.dtype", "aten.contiguous.default", "aten.clone.default")
FAILURES = (RuntimeError, LookupError, TypeError, ValueError, AttributeError, NotImplementedError, AssertionError)
RESHAPING = ("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default")
EXPANDING = ("aten.expand.default", "aten.repeat.default", "aten.broadcast_to.default")
MAKING = ("aten.zeros.default", "aten.ones.default", "aten.full.default")
MAKING_LIKE = ("aten.new_zeros.default", "aten.new_ones.default", "aten.new_full.default")
UNFLATTENING = "aten.unflatten.int"


def any_batch(program: Mapping[str, Any], module: ProgramModule, given: list[Tensor], size: int) -> dict[str, Any]:
    """The program with its batch free: sizes that hold the batch become n times it. `given` are a batch of `size`.

    Which of the numbers in a view are the batch is told by how many values arrive when twice the samples are sent
    through. The caller compares the answers.
    """
    steps = [list(step) for step in program["steps"]]
    twice = [torch.cat((tensor, tensor)) for tensor in given]
    with torch.inference_mode():
        once = _recorded(module, given, None)
        freeing = _Freeing(steps, once, size)
        _recorded(module, twice, freeing)
    return {**program, "steps": steps}


def _recorded(module: ProgramModule, given: list[Tensor], freeing: _Freeing | None) -> list[list[Any]]:
    """The shapes of each step's tensor arguments in a run; with `freeing`, whose numbers are changed on the way."""
    shapes: list[list[Any]] = []

    def before(number: int, args: list[Any]) -> list[Any]:
        shapes.append([tuple(arg.shape) if isinstance(arg, Tensor) else None for arg in args])
        return args if freeing is None else freeing.changed(number, args)

    module.run(given, before)
    return shapes


class _Freeing:
    def __init__(self, steps: list[list[Any]], once: list[list[Any]], size: int) -> None:
        self.steps, self.once, self.size = steps, once, size

    def changed(self, number: int, args: list[Any]) -> list[Any]:
        """The arguments for twice the batch, and the step's own numbers made free."""
        name = self.steps[number][0]
        place = {UNFLATTENING: 2}.get(name, 0 if name in MAKING else 1)
        if name not in (*RESHAPING, *EXPANDING, *MAKING, *MAKING_LIKE, UNFLATTENING):
            return args
        sizes = list(args[place])
        index = self._index(name, number, args, sizes)
        if index is None:
            return args
        written = list(self.steps[number][2])
        written[place] = list(written[place])
        written[place][index] = f"batch:{sizes[index] // self.size}"
        self.steps[number][2] = written
        sizes[index] *= 2
        return [*args[:place], sizes, *args[place + 1 :]]

    def _index(self, name: str, number: int, args: list[Any], sizes: list[Any]) -> int | None:
        """Which of the sizes holds the batch; None where none does."""
        if name in MAKING or name in MAKING_LIKE:
            return sizes.index(self.size) if self.size in sizes else None
        now, then = tuple(args[0].shape), self.once[number][0]
        if name == UNFLATTENING:
            now, then = now[args[1] :][:1], then[args[1] :][:1]
        if name in RESHAPING or name == UNFLATTENING:
            axis = next((axis for axis, (a, b) in enumerate(zip(now, then, strict=True)) if a != b), None)
            return None if axis is None else self._of_view(then, axis, sizes)
        offset = len(sizes) - len(now)
        grown = [i + offset for i, (a, b) in enumerate(zip(now, then, strict=True)) if a != b]
        if name == "aten.repeat.default":
            return None if grown else (0 if sizes[0] == self.size and self.size > 1 else None)
        if grown:
            return grown[0] if sizes[grown[0]] != -1 else None
        return 0 if sizes and sizes[0] == self.size and (offset > 0 or now[0] == 1) and self.size > 1 else None

    def _of_view(self, shape: tuple[int, ...], axis: int, sizes: list[int]) -> int | None:
        """Where a view of `shape` as `sizes` has the batch that is in `axis`: values stay in their order."""
        known = prod(size for size in sizes if size != -1)
        whole = [prod(shape) // known if size == -1 else size for size in sizes]
        outer, inner = prod(shape[axis:]), prod(shape[axis + 1 :])
        same = [i for i, size in enumerate(sizes) if size == shape[axis] and prod(whole[i + 1 :]) == inner]
        if same:
            return axis if axis in same else same[0]
        first = max((i for i in range(len(whole)) if prod(whole[i:]) >= outer), default=0)
        span = [i for i in range(first, len(whole)) if i == first or prod(whole[i + 1 :]) >= inner]
        if any(sizes[i] == -1 for i in span):
            return None  # it follows by itself
        exact = [i for i in span if whole[i] == self.size]
        return next(iter([*exact, *(i for i in span if whole[i] % self.size == 0)]), None)


def described(
    draft: ProgramDraft,
    make: Callable[[list[str]], dict[str, Any]],
    tensors: Mapping[str, LazyTensor],
    rows_apart: bool = False,
) -> dict[str, Any]:
    """{"program", "inputs", "task", "classes", "outputs", "title"}; `outputs` are the shapes of one sample's answers,
    those of floats.

    The draft keeps the outputs that have a row for each sample; of a language model the scores alone, and not what it
    keeps of its tokens. Raises NotRun where it cannot be called or does not run. With `rows_apart`, each sample of a
    batch has to be answered as it is alone.
    """
    names = _names(draft)
    program = make(names)
    inputs = _inputs(draft, program, names)
    module = _filled(program, tensors)
    spec = ArchitectureSpec(family="program", title="", task=None, config={}, inputs=inputs)
    if "vocab" in inputs and not draft.inputs[0].most[1] and "length" not in inputs:
        inputs["tokens"] = _longest(module, spec)
        spec = spec.model_copy(update={"inputs": inputs})
    first = draft.inputs[0]
    if first.shape[0] is not None:
        program, module = _freed(program, module, spec, first.shape[0], tensors)
    given = [synthetic(spec, 0).inputs[name] for name in names]
    answers = _answer(module, given)
    whole = [found.numel() and found.dim() and not found.is_complex() for found in answers]
    rows = [place for place, found in enumerate(answers) if whole[place] and len(found) == len(given[0])]
    if not rows:
        raise NotRun("does not answer with one row for each sample")
    if len(rows) < len(answers):
        draft.keep(rows)
        return described(draft, make, tensors, rows_apart)
    if rows_apart:
        _compare_rows(module, given, answers)
    answer = answers[draft.main]
    task = _task(module, given, draft.main, answer, inputs)
    if task == "causal-lm" and len(answers) > 1:
        draft.keep([draft.main])
        return described(draft, make, tensors, rows_apart)
    title = f"{draft.title} ({draft.made})" if draft.title else f"{draft.made[0].upper()}{draft.made[1:]}"
    classes = int(answer.shape[1]) if answer.dim() == 2 and answer.is_floating_point() else None
    shapes = [list(found.shape[1:]) for found in answers if found.is_floating_point()] or [list(answer.shape[1:])]
    return {"program": program, "inputs": inputs, "task": task, "classes": classes, "outputs": shapes, "title": title}


def _names(draft: ProgramDraft) -> list[str]:
    """What its inputs are called here."""
    found = draft.inputs
    if not found or any(len(given.shape) < 2 for given in found):
        raise NotRun("takes no input whose first axis counts samples")
    if len(found) == 1:
        return ["x"] if "float" in found[0].dtype else ["input_ids"]
    names = draft.called or [given.name for given in found]
    if not set(names) <= set(TEXT) or "input_ids" not in names:
        listed = ", ".join(name[:80] for name in names[:6])
        raise NotRun(f"takes several inputs ({listed}); Pare gives one, or what a tokenizer makes")
    return names


def _inputs(draft: ProgramDraft, program: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    ids = names.index("input_ids") if "input_ids" in names else None
    if ids is None:
        return {"shape": list(_shape(draft.inputs[0])), "names": names}
    given = draft.inputs[ids]
    if len(given.shape) != 2:
        raise NotRun(f"takes whole numbers of {len(given.shape)} axes; Pare gives rows of tokens")
    vocab = _vocabulary(program, f"%{ids}")
    length = given.shape[1]
    most = length or min(given.most[1] or TOKENS, MOST_TOKENS)
    told = {"tokens": most, "vocab": vocab, "shape": [length], "names": names}
    return {**told, "length": length} if length else told


def _shape(given: ProgramInput) -> tuple[int | None, ...]:
    return given.shape[1:]


def _vocabulary(program: Mapping[str, Any], ids: str) -> int:
    """The rows of the embedding in which the input is looked up."""
    same = {ids}  # the input, in whatever shape
    for name, result, args, *_ in program["steps"]:
        if name in SAME and args[0] in same:
            same.add(result)
        if name == LAYER and args[1] in same and program["layers"][args[0]]["kind"] == "embedding":
            return int(program["layers"][args[0]]["rows"])
        if name == "aten.embedding.default" and args[1] in same and args[0][1:] in program["tensors"]:
            return int(program["tensors"][args[0][1:]][1][0])
    raise NotRun("takes whole numbers and does not look them up in an embedding")


def _filled(program: Mapping[str, Any], tensors: Mapping[str, LazyTensor]) -> ProgramModule:
    """The module with its weights in float32."""
    with torch.device("meta"):
        module = ProgramModule(program).eval()
    read = {name: value.load() for name in module.state_dict() if (value := tensors.get(name)) is not None}
    floats = {name: value.float() if value.is_floating_point() else value for name, value in read.items()}
    floats |= {alias: floats[name] for alias, name in program["ties"].items()}
    # torch adds a counter to batch norms that have none, as if their weights were of an old version
    left = module.load_state_dict(floats, strict=False, assign=True).missing_keys
    assert not left, left
    return module


def _freed(
    program: dict[str, Any], module: ProgramModule, spec: ArchitectureSpec, size: int, tensors: Mapping[str, LazyTensor]
) -> tuple[dict[str, Any], ProgramModule]:
    """The same program for batches of any size; NotRun where its answers then differ from those that it gives now."""
    names = spec.inputs["names"]
    given = [synthetic(spec, 0).inputs[name] for name in names]
    exact = [tensor.repeat(-(-size // len(tensor)), *[1] * (tensor.dim() - 1))[:size] for tensor in given]
    expected = _answer(module, exact)
    try:
        free = any_batch(program, module, exact, size)
        freed = _filled(free, tensors)
        for count in (size, 1, size + 2):
            there = torch.arange(count) % size
            found = _answer(freed, [tensor[there] for tensor in exact])
            if not all(_alike(one, other[there]) for one, other in zip(found, expected, strict=True)):
                raise NotRun("answers otherwise")
    except (NotRun, *FAILURES):
        raise NotRun(f"was exported for batches of exactly {size} and cannot take others; {EXPORT_AGAIN}") from None
    return free, freed


def _longest(module: ProgramModule, spec: ArchitectureSpec) -> int:
    """The most tokens, of powers of two, with which it runs: a table of places that ends is not told by its shapes."""
    names, tokens = spec.inputs["names"], int(spec.inputs["tokens"])
    while tokens > 8:
        probe = spec.model_copy(update={"inputs": {**spec.inputs, "length": tokens}})
        try:
            _answer(module, [synthetic(probe, 0).inputs[name][:1] for name in names])
        except NotRun:
            tokens //= 2
        else:
            break
    return tokens


def _compare_rows(module: ProgramModule, given: list[Tensor], answers: list[Tensor]) -> None:
    for row in range(2):
        alone = _answer(module, [tensor[row : row + 1] for tensor in given])
        if not all(_alike(one, answer[row : row + 1]) for one, answer in zip(alone, answers, strict=True)):
            raise NotRun("mixes the samples of a batch")


def _alike(one: Tensor, other: Tensor) -> bool:
    """Of what is no float (the largest score's place) a few may differ: last bits decide them."""
    if one.shape != other.shape:
        return False
    if one.is_floating_point():
        return torch.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)
    return not one.numel() or float((one == other).double().mean()) >= SAME_CHOICES


@torch.inference_mode()
def _answer(module: nn.Module, given: list[Tensor]) -> list[Tensor]:
    """Of a run that may change neither its inputs nor its weights."""
    watched = {**dict(module.state_dict()), **{f"input {index}": tensor for index, tensor in enumerate(given)}}
    before = {name: tensor.clone() for name, tensor in watched.items() if tensor.numel() < 2**24}
    try:
        answer = module(*given)
    except CheckpointRefused:
        raise
    except FAILURES as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotRun(f"does not run here ({first[:200]})") from error
    for name, value in before.items():
        if not torch.equal(watched[name].nan_to_num(), value.nan_to_num()):
            raise NotRun(f"changes {name} whenever it runs")
    answers = answer if isinstance(answer, list) else [answer]
    if not all(isinstance(found, Tensor) for found in answers):
        raise NotRun("answers with something that is no tensor")
    return answers


def _task(module: nn.Module, given: list[Tensor], place: int, answer: Tensor, inputs: Mapping[str, Any]) -> Task | None:
    """Of the `answer` at a place among its outputs."""
    if not answer.is_floating_point():
        return None
    if "vocab" not in inputs or answer.dim() != 3 or answer.shape[-1] != inputs["vocab"]:
        return None
    tokens = given[inputs["names"].index("input_ids")]
    if answer.shape[1] != tokens.shape[1] or tokens.shape[1] < 2:
        return None
    other = [tensor.clone() for tensor in given]
    other[inputs["names"].index("input_ids")][:, -1] = (tokens[:, -1] + 1) % inputs["vocab"]
    ahead = torch.allclose(_answer(module, other)[place][:, :-1], answer[:, :-1], rtol=1e-4, atol=1e-5)
    return "causal-lm" if ahead else None  # a position that sees the next token does not foretell it
