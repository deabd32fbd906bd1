"""OpenAI's interface: completions, chats (both also as a stream), embeddings and the list of models."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from uuid import uuid4

from webapp.engine.errors import PareError

from .answers import Answer, Request, as_json
from .errors import Refused, error_body
from .generation import Written, generate
from .model import ServedModel
from .openai_requests import MAX_TOKENS, ChatAsked, CommonRequest, CompletionAsked, EmbeddingAsked, read

EVENTS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


def models(model: ServedModel) -> Answer:
    only = {"id": model.name, "object": "model", "created": model.started_at, "owned_by": "pare"}
    return as_json({"object": "list", "data": [only]})


def completions(model: ServedModel, request: Request) -> Answer:
    """Raises Refused."""
    asked = read(CompletionAsked, request.json(), model.name)
    tokens = _writer(model)
    prompt = asked.prompt
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if isinstance(prompt, list) and any(isinstance(part, str) for part in prompt):
        raise Refused("Send one prompt at a time.", "prompt")
    ids = tokens.ids(prompt) if isinstance(prompt, str) else [int(id) for id in prompt]
    return _answer(model, request, asked, ids, chat=False)


def chat_completions(model: ServedModel, request: Request) -> Answer:
    """Raises Refused, also where the tokenizer has no chat template."""
    asked = read(ChatAsked, request.json(), model.name)
    ids = _writer(model).chat([message.plain() for message in asked.messages])
    return _answer(model, request, asked, ids, chat=True)


def embeddings(model: ServedModel, request: Request) -> Answer:
    """Raises Refused unless the model embeds text."""
    asked = read(EmbeddingAsked, request.json(), model.name)
    if model.signature.task != "embedding":
        raise Refused(f"{model.name} does not embed text; it is for {model.signature.task or 'another task'}.")
    vectors, count = model.embeddings([asked.input] if isinstance(asked.input, str) else asked.input)
    plain = asked.encoding_format == "float"
    data = [
        {
            "object": "embedding",
            "index": place,
            "embedding": vector.tolist() if plain else base64.b64encode(vector.astype("<f4").tobytes()).decode(),
        }
        for place, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": count, "total_tokens": count}
    return as_json({"object": "list", "model": model.name, "data": data, "usage": usage})


def _writer(model: ServedModel) -> Any:
    """The tokenizer of a language model. Raises Refused for any other."""
    if model.signature.task != "causal-lm":
        raise Refused(f"{model.name} writes no text; it is for {model.signature.task or 'another task'}.")
    if model.tokens is None:
        raise Refused(f"{model.name} came without a tokenizer (tokenizer.json), so it can read no text.")
    return model.tokens


def _answer(model: ServedModel, request: Request, asked: CommonRequest, ids: list[int], chat: bool) -> Answer:
    how = asked.sampling(MAX_TOKENS["chat" if chat else "completion"])
    written = Written(len(ids))
    pieces = generate(model, ids, how, written)
    head = _Head(model.name, chat)
    if asked.stream:
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        first = next(pieces, "")  # what is wrong with the request is told before the stream begins
        return Answer(_events(head, first, pieces, written, usage, request.path), dict(EVENTS))
    text = "".join(pieces)
    choice: dict[str, Any] = {"index": 0, "finish_reason": written.ended, "logprobs": None}
    if chat:
        choice["message"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = text
        if isinstance(asked, CompletionAsked) and asked.logprobs is not None:
            choice["logprobs"] = _logprobs(model, written)
    return as_json(head.of([choice]) | {"usage": _usage(written)})


def _events(head: _Head, first: str, rest: Iterator[str], written: Written, usage: bool, path: str) -> Iterator[bytes]:
    """Server-sent events; an error in the midst is one too."""
    if head.chat:
        yield _event(head.of([head.choice("", role="assistant")], chunk=True))
    if first:
        yield _event(head.of([head.choice(first)], chunk=True))
    try:
        for piece in rest:
            yield _event(head.of([head.choice(piece)], chunk=True))
    except PareError as error:
        yield b"data: " + error_body(path, error) + b"\n\n"
        return
    yield _event(head.of([head.choice(None, ended=written.ended)], chunk=True))
    if usage:
        yield _event(head.of([], chunk=True) | {"usage": _usage(written)})
    yield b"data: [DONE]\n\n"


class _Head:
    """What every part of one answer begins with."""

    def __init__(self, model: str, chat: bool) -> None:
        self.chat = chat
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid4().hex}"
        self._model, self._created = model, int(time.time())

    def of(self, choices: list[dict[str, Any]], chunk: bool = False) -> dict[str, Any]:
        kind = f"chat.completion{'.chunk' if chunk else ''}" if self.chat else "text_completion"
        about = {"id": self._id, "object": kind, "created": self._created, "model": self._model}
        return {**about, "choices": choices}

    def choice(self, text: str | None, role: str | None = None, ended: str | None = None) -> dict[str, Any]:
        said: dict[str, Any] = {"index": 0, "finish_reason": ended, "logprobs": None}
        if not self.chat:
            return said | {"text": text or ""}
        delta = ({"role": role} if role else {}) | ({} if text is None else {"content": text})
        return said | {"delta": delta}


def _usage(written: Written) -> dict[str, int]:
    counted = {"prompt_tokens": written.prompt_tokens, "completion_tokens": len(written.ids)}
    return counted | {"total_tokens": sum(counted.values())}


def _logprobs(model: ServedModel, written: Written) -> dict[str, Any]:
    """Of the tokens that were written, each with the text that it added."""
    assert model.tokens is not None
    texts = [model.tokens.text(written.ids[:count]) for count in range(len(written.ids) + 1)]
    added = [after[len(before) :] for before, after in pairwise(texts)]
    return {
        "tokens": added,
        "token_logprobs": written.logprobs,
        "top_logprobs": None,
        "text_offset": [len(text) for text in texts[:-1]],
    }


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
