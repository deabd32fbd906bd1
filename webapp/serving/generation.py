"""Text written on by a language model, one token after the other.

A graph that keeps keys and values reads each token once; of another the whole text is read again for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .errors import Refused
from .model import ServedModel
from .tensors import Array

BROKEN = "\ufffd"  # what a tokenizer writes for half of a character


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 takes the likeliest token; `top_p` draws among those that together are that likely."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass
class Written:
    """What came so far: `ids` with their log probabilities, and why it ended."""

    prompt_tokens: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: Literal["stop", "length"] | None = None


def generate(model: ServedModel, prompt: Sequence[int], how: Sampling, written: Written) -> Iterator[str]:
    """Yields the text piece by piece, and keeps `written`. Raises Refused where the prompt fills the model's window."""
    assert model.tokens is not None
    window = model.tokens.max_tokens
    if not prompt:
        raise Refused("The prompt is empty; send at least one token.", "prompt")
    if len(prompt) >= window:
        raise Refused(f"The prompt has {len(prompt)} tokens; this model's window is {window}.", "prompt")
    random = np.random.default_rng(how.seed)
    text, given, after, unread = "", 0, model.reading(), list(prompt)
    for _ in range(min(how.max_tokens, window - len(prompt))):
        token, logprob = choose(after(unread), how, random)
        unread = [token]
        if token in model.tokens.ends:
            written.ended = "stop"
            break
        written.ids.append(token)
        written.logprobs.append(logprob)
        text = model.tokens.text(written.ids)
        if (at := _first_stop(text, how.stop)) is not None:
            text, written.ended = text[:at], "stop"
            break
        safe = len(text) - _held_back(text, how.stop)
        if safe > given:
            yield text[given:safe]
            given = safe
    written.ended = written.ended or "length"
    if len(text) > given:
        yield text[given:]


def choose(logits: Array, how: Sampling, random: np.random.Generator) -> tuple[int, float]:
    """(V,) float32 -> a token and its log probability under the model itself."""
    logits = logits.astype(np.float64)
    logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    if how.temperature == 0:
        token = int(logits.argmax())
        return token, float(logprobs[token])
    scaled = np.exp((logits - logits.max()) / how.temperature)
    order = np.argsort(-scaled, kind="stable")
    shares = scaled[order] / scaled.sum()
    kept = int(np.searchsorted(np.cumsum(shares), how.top_p)) + 1  # the least many that reach top_p
    token = int(random.choice(order[:kept], p=shares[:kept] / shares[:kept].sum()))
    return token, float(logprobs[token])


def _first_stop(text: str, stops: Sequence[str]) -> int | None:
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return min(found, default=None)


def _held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end may be the beginning of a stop, or of a character that is not whole yet."""
    broken = len(text) - len(text.rstrip(BROKEN))
    starts = [size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])]
    return max([broken, *starts])
