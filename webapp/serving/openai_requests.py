"""What OpenAI's interface asks for, and what of it is not done here: refused by name, never passed over in silence.

https://platform.openai.com/docs/api-reference/completions and …/chat.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import Refused
from .generation import Sampling

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


class CommonRequest(BaseModel):
    """What completions and chats have in common; a client's own further fields are passed over."""

    model_config = ConfigDict(extra="allow")

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


class EmbeddingAsked(BaseModel):
    model_config = ConfigDict(extra="allow")

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
