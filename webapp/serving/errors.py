"""What a client is told when its request is not answered, in the form of the protocol that it speaks."""

from __future__ import annotations

import json
import re
from typing import Any

from webapp.engine.errors import PareError

OPENAI_PATHS = re.compile(r"^/v1/(completions|chat/completions|embeddings|models/?)$")
OPENAI_KINDS = {401: "authentication_error", 404: "not_found_error", 500: "server_error", 503: "server_error"}


class Refused(PareError, code="invalid_request", status=400):
    """The request does not fit the model or the protocol."""


class Unknown(PareError, code="not_found", status=404):
    """There is no such model, version or address here."""


class TooLarge(PareError, code="too_large", status=413):
    """The body is larger than a request may be."""


class Unauthorized(PareError, code="invalid_token", status=401):
    """The token is missing or not the model's."""


class Unavailable(PareError, code="unavailable", status=503):
    """The model does not answer right now."""


class Unloadable(PareError, code="unloadable", status=500):
    """The files cannot be served."""


def error_body(path: str, error: PareError) -> bytes:
    """Of OpenAI's interface an object, of TensorFlow Serving's REST and of the Open Inference Protocol a sentence."""
    told: Any = error.message
    if OPENAI_PATHS.match(path):
        kind = OPENAI_KINDS.get(error.status, "invalid_request_error")
        told = {"message": error.message, "type": kind, "param": error.field, "code": error.code}
    return json.dumps({"error": told}).encode()
