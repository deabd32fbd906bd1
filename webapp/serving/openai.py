"""OpenAI's interface: completions, chats (both also as a stream), embeddings and the list of models."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal, TypeVar
from uuid import uuid4

from pydantic import BaseModel, Field, ValidationError, model_validator

from webapp.engine.errors import PareError

from .answers import Answer, Request, as_json
from .errors import Refused, error_body
from .generation import Sampling, Written, generate
from .model import ServedModel

EVENTS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
MAX_TOKENS = {"completion": 16, "chat": 256}  # where the request names none
NOT_DONE = (
    "tools",
    "functions",
    "tool_choice",
    "function_call",
    "logit_bias",
    "frequency_penalty",
    "presence_penalty",
    "suffix",
    "top_logprobs",
    "echo",
    "audio",
)
Kind = TypeVar("Kind", bound=BaseModel)


class StreamOptions(BaseModel):
    include_usage: bool = False


class CommonRequest(BaseModel, extra="allow"):
    """What completions and chats have in common; a client's own further fields are passed over.

    What is not done here is refused by name: https://platform.openai.com/docs/api-reference/completions and …/chat.
    """

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(1.0, ge=0, le=2)
    top_p: float | None = Field(1.0, gt=0, le=1)
    n: int | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: int | None = None

    @model_validator(mode="after")
    def only_what_is_done(self) -> CommonRequest:
        for name in NOT_DONE:
            if (self.model_extra or {}).get(name) not in (None, False, 0, [], {}, "none", "auto"):
                raise ValueError(f"{name} is not supported here")
        if self.n not in (None, 1) or (self.model_extra or {}).get("best_of") not in (None, 1):
            raise ValueError("only one answer is given: n and best_of have to be 1")
        kind = (self.model_extra or {}).get("response_format") or {}
        if isinstance(kind, dict) and kind.get("type", "text") != "text":
            raise ValueError("response_format can only be text")
        return self

    def sampling(self, longest: int) -> Sampling:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=self.max_tokens or longest,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            stop=tuple(stop for stop in stops if stop),
            seed=None if self.seed is None else abs(self.seed),
        )


class CompletionAsked(CommonRequest):
    prompt: str | list[int] | list[str]
    logprobs: Literal[0] | None = None  # 0: of the tokens that were written


class Message(BaseModel):
    role: str
    content: str | list[dict[str, Any]] | None = None

    def plain(self) -> dict[str, Any]:
        """With the text of its parts as one. Raises Refused for parts that are no text."""
        if not isinstance(self.content, list):
            return {"role": self.role, "content": self.content or ""}
        if any(part.get("type") != "text" for part in self.content):
            raise Refused("A message can hold text only.", "messages")
        return {"role": self.role, "content": "".join(str(part.get("text", "")) for part in self.content)}


class ChatAsked(CommonRequest):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: Literal[False] | None = None

    @model_validator(mode="after")
    def newer_name(self) -> ChatAsked:
        self.max_tokens = self.max_completion_tokens or self.max_tokens
        return self


class EmbeddingAsked(BaseModel, extra="allow"):
    model: str
    input: str | list[str] = Field(min_length=1)
    encoding_format: Literal["float", "base64"] = "float"


def read(kind: type[Kind], body: dict[str, Any], served: str) -> Kind:
    """Raises Refused with the first thing that is wrong."""
    try:
        asked = kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0]) if first["loc"] else None
        message = first["msg"].removeprefix("Value error, ")
        raise Refused(f"{field}: {message}." if field else f"{message[:1].upper()}{message[1:]}.", field) from None
    if (name := getattr(asked, "model", None)) != served:
        raise Refused(f"There is no model {str(name)[:80]!r} here; there is {served}.", "model")
    return asked


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
