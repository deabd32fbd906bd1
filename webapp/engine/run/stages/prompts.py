"""Prompts of one's own: what a language model and its result write on, each by its likeliest tokens."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from webapp.engine.architectures.build import build
from webapp.engine.data.questions import tokenized
from webapp.engine.errors import RecipeInvalid, quoted
from webapp.engine.exporters import measured
from webapp.engine.lazy import nn, torch
from webapp.engine.progress import ProgressPart, Report
from webapp.engine.run.sample_answers import token_texts
from webapp.engine.run.shapes import Footprint, RunShapes
from webapp.engine.weights.artifact import read_model
from webapp.engine.weights.memory import release_freed_memory
from webapp.engine.weights.model import Model

from .base import RunStage, SourceDigests
from .export import ExportStage
from .job import PromptSet, RunGiven, StageJob

MOST_PROMPT_TOKENS = 1024
KEPT = ("cache", "past_key_values")  # what transformers calls the keys and values, now and before
CONTEXT = 8  # tokens before the first new one, with which its text is decoded


class PromptsStage(RunStage):
    kind = "prompts"
    weight = 3.0

    @classmethod
    def of_run(cls, asked: RunGiven) -> Iterable[Self]:
        """One for each set that was asked; those that are answered are not asked again."""
        return [cls(asked, set_name(given)) for given in asked.prompts]

    @property
    def given(self) -> PromptSet:
        return next(given for given in self.asked.prompts if set_name(given) == self.which)

    @property
    def title(self) -> str:
        count = len(self.given.texts)
        return f"Answer {count} prompt{'' if count == 1 else 's'}"

    @property
    def place(self) -> tuple[int, int]:
        """After all that a run delivers."""
        after = 2 + len(self.asked.recipe.steps) + len(self.asked.exports)
        return after, [set_name(given) for given in self.asked.prompts].index(self.which)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (ExportStage.name_of(measured().name),)

    def decided_by(self, sources: SourceDigests) -> dict[str, Any]:
        return self.by_steps(sources) | {"prompts": self.given.row}

    def footprint(self, shapes: RunShapes) -> Footprint:
        """One model after the other, whole."""
        return Footprint.of(max(shapes.original.whole, shapes.result.whole) if shapes.known else None, 0)

    def run(self, job: StageJob, report: Report) -> dict[str, Any]:
        """{"answers", "max_tokens", "seconds"}: of each prompt what both wrote, and how many first tokens are the same.

        Raises RecipeInvalid where the model is none that writes, or a prompt does not fit it.
        """
        start, spec, tokenizer = time.perf_counter(), job.spec, job.tokenizer()
        if spec is None or spec.task != "causal-lm" or tokenizer is None:
            raise RecipeInvalid("Prompts are answered by language models that came with their tokenizer.", "prompts")
        window = int(spec.inputs.get("tokens") or MOST_PROMPT_TOKENS)
        read = chat_tokens if self.given.chat else plain_tokens
        prompts = [fitting(text, read(tokenizer, text), window - self.given.max_tokens) for text in self.given.texts]
        written: dict[str, list[dict[str, Any]]] = {}
        delivered = job.inputs[self.inputs[0]].folder / measured().file
        sides: dict[str, Callable[[], Model]] = {"original": job.original, "result": lambda: read_model(delivered)}
        for number, (side, opened) in enumerate(sides.items()):
            report.progress(number / 2, f"Reading the {side}")
            module = build(opened())
            part = ProgressPart(report, number / 2, (number + 1) / 2)
            written[side] = []
            for place, ids in enumerate(prompts):
                part.progress(place / len(prompts), f"The {side} answers prompt {place + 1} of {len(prompts)}")
                new, ended = continued(module, ids, self.given.max_tokens, ends_of(module, tokenizer))
                texts = token_texts(tokenizer, [*ids[-CONTEXT:], *new])[len(ids[-CONTEXT:]) :]
                written[side].append({"ids": new, "tokens": texts, "ended": ended})
            del module
            release_freed_memory()
        answers = []
        for text, before, after in zip(self.given.texts, written["original"], written["result"], strict=True):
            same = same_tokens(before["ids"], after["ids"])
            told = {
                name: {key: side[key] for key in ("tokens", "ended")}
                for name, side in zip(sides, (before, after), strict=True)
            }
            answers.append({"prompt": text, **told, "same": same})
        return {
            "answers": answers,
            "max_tokens": self.given.max_tokens,
            "seconds": time.perf_counter() - start,
        }


def set_name(given: PromptSet) -> str:
    """What tells a set from others of a run."""
    return hashlib.sha256(json.dumps(given.row).encode()).hexdigest()[:12]


def plain_tokens(tokenizer: Any, text: str) -> list[int]:
    """Raises DatasetUnfit for text without a token."""
    ids: list[int] = tokenized(tokenizer, text, verbose=False)["input_ids"]
    return ids


def chat_tokens(tokenizer: Any, text: str) -> list[int]:
    """What a user says, and the beginning of the answer, by the template of the model's own tokenizer.

    Raises RecipeInvalid where it has none, or one that cannot be applied.
    """
    if not tokenizer.chat_template:
        raise RecipeInvalid("The model's tokenizer has no chat template; give the prompts as they are.", "chat")
    said = [{"role": "user", "content": text}]
    try:
        written = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # whatever a template that came with the model does wrong, it does in its sandbox
        raise RecipeInvalid(f"The model's chat template cannot be applied: {error}", "chat") from error
    ids: list[int] = tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def fitting(text: str, ids: list[int], most: int) -> list[int]:
    """Raises RecipeInvalid where there is no token, or more than `most`."""
    most = min(most, MOST_PROMPT_TOKENS)
    if not ids:
        raise RecipeInvalid(f"The tokenizer makes no token of the prompt {quoted(text)}; write more.", "prompts")
    if len(ids) > most:
        raise RecipeInvalid(
            f"The prompt {quoted(text)} has {len(ids):,} tokens; beside what is to be written there is room for "
            f"{most:,}. Shorten it, or ask for fewer tokens.",
            "prompts",
        )
    return ids


def continued(module: nn.Module, prompt: Sequence[int], most: int, ends: frozenset[int]) -> tuple[list[int], str]:
    """At most so many tokens after the prompt, each the likeliest, and why they end: "stop" or "length".

    A module that keeps keys and values reads each token once; of another the whole text is read again.
    """
    found: list[int] = []
    unread = list(prompt)
    names = [name for name in KEPT if name in inspect.signature(module.forward).parameters][:1]
    more: dict[str, Any] = {}  # what the module keeps of the tokens that it has read
    with torch.inference_mode():
        while len(found) < most:
            answer = module(input_ids=torch.tensor([unread]), use_cache=True, **more)
            token = int(answer["logits"][0, -1].float().nan_to_num(-torch.inf).argmax())
            if token in ends:
                return found, "stop"
            found.append(token)
            more = {name: answer[name] for name in names if answer.get(name) is not None}
            unread = [token] if more else [*prompt, *found]
    return found, "length"


def ends_of(module: nn.Module, tokenizer: Any) -> frozenset[int]:
    """The tokens with which the model says that it is done."""
    found = {getattr(tokenizer, "eos_token_id", None)}
    for settings in ("config", "generation_config"):
        told = getattr(getattr(module, settings, None), "eos_token_id", None)
        found |= {*told} if isinstance(told, list) else {told}
    return frozenset(token for token in found if isinstance(token, int))


def same_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens are the same in both."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
