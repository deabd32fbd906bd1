"""A file that comes as the body itself."""

from __future__ import annotations

from flask import request
from werkzeug.exceptions import LengthRequired, UnsupportedMediaType


def refuse_forms() -> None:
    """Raises UnsupportedMediaType: a form's envelope would be taken for the file."""
    if (request.mimetype or "").startswith("multipart/"):
        raise UnsupportedMediaType("Send the file itself as the body (curl -T FILE), not as a form (curl -F).")


def body_length() -> int | None:
    """Announced bytes, None for a chunked body. Raises LengthRequired where neither is said: nothing could be read."""
    if request.content_length is None and not request.environ.get("wsgi.input_terminated"):
        raise LengthRequired("Say how long the file is: Content-Length, or Transfer-Encoding: chunked.")
    return request.content_length
