"""Trying a run's model: the same input for the original and the compressed one, each in a process of its own."""

from __future__ import annotations

import http.client
import json
import math
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from webapp.serving.client import ModelConnection
from webapp.serving.errors import Unavailable
from webapp.store.models import Deployment

from .deployments import ModelSide
from .errors import BodyInvalid

LONGEST_TEXT, MOST_TOKENS, MOST_VALUES = 10_000, 128, 1_000_000
LONGEST_IMAGE = 16_000_000  # characters of base64: 12 MB


class TryoutInput(BaseModel, extra="forbid"):
    """`text` for models of text, and `other` beside it where they embed; `image` or `values` for the rest."""

    text: str | None = Field(None, max_length=LONGEST_TEXT)
    other: str | None = Field(None, max_length=LONGEST_TEXT, description="Compared with `text`.")
    image: str | None = Field(
        None, max_length=LONGEST_IMAGE, description="A file in base64, prepared as the run's images were."
    )
    values: list[Any] | None = Field(None, max_length=MOST_VALUES, description="One sample, in the model's shape.")
    max_tokens: int = Field(32, ge=1, le=MOST_TOKENS, description="Of a language model's continuation.")


class TryoutRequest(TryoutInput):
    side: ModelSide


def ask(row: Deployment, asked: TryoutInput, timeout_seconds: float) -> dict[str, Any]:
    """{"took_ms"} and what the task answers. Raises BodyInvalid (the input does not fit), Unavailable."""
    task = row.about["architecture"]["task"]
    of_text = "vocab" in row.about["architecture"]["inputs"]
    if of_text and not (asked.text or "").strip():
        raise BodyInvalid("This model reads text; write some.", "text")
    if not of_text and not asked.values and not asked.image:
        raise BodyInvalid("This model takes numbers; send them as values, or an image where it takes one.", "values")
    if task == "causal-lm":
        return _written(row, asked, timeout_seconds)
    if task == "embedding":
        if not (asked.other or "").strip():
            raise BodyInvalid("This model compares two texts; write the second one too.", "other")
        body = {"model": row.name, "input": [asked.text, asked.other]}
        answer, took = _post(row, "/v1/embeddings", body, timeout_seconds)
        one, two = (each["embedding"] for each in answer["data"])
        return {"took_ms": took, "similarity": sum(a * b for a, b in zip(one, two, strict=True))}
    instance = {"text": asked.text} if of_text else {"b64": asked.image} if asked.image else asked.values
    answer, took = _post(row, f"/v1/models/{row.name}:predict", {"instances": [instance]}, timeout_seconds)
    found = _flat(answer["predictions"][0])
    if task is None or "classification" not in task:
        return {"took_ms": took, "values": found}
    names = row.about["classes"] if row.about["classes"] and len(row.about["classes"]) == len(found) else None
    shares = softmax(found)
    named = [{"name": names[n] if names else str(n), "probability": share} for n, share in enumerate(shares)]
    return {"took_ms": took, "classes": named}


def softmax(values: Sequence[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def _written(row: Deployment, asked: TryoutInput, timeout_seconds: float) -> dict[str, Any]:
    """The likeliest continuation, so that two models differ only by what they are."""
    body = {"model": row.name, "prompt": asked.text, "temperature": 0, "max_tokens": asked.max_tokens, "logprobs": 0}
    answer, took = _post(row, "/v1/completions", body, timeout_seconds)
    choice = answer["choices"][0]
    return {"took_ms": took, "text": choice["text"], "tokens": choice["logprobs"]["tokens"]}


def _post(row: Deployment, path: str, body: dict[str, Any], timeout_seconds: float) -> tuple[Any, float]:
    """The answer, and how many milliseconds the process took for it."""
    assert row.socket is not None
    connection = ModelConnection(row.socket, timeout_seconds)
    try:
        connection.request("POST", path, json.dumps(body).encode())
        answer = connection.getresponse()
        found = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable("The model's process does not answer; try again in a moment.") from error
    finally:
        connection.close()
    if answer.status != 200:
        told = found["error"]
        raise BodyInvalid(told["message"] if isinstance(told, dict) else told)
    timing = re.search(r"dur=([\d.]+)", answer.headers.get("Server-Timing", ""))
    return found, float(timing[1]) if timing else 0.0


def _flat(value: Any) -> list[float]:
    return [number for part in value for number in _flat(part)] if isinstance(value, list) else [float(value)]
