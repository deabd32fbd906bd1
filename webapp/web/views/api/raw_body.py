"""A file that comes as the body itself."""

from __future__ import annotations

from flask import request
from werkzeug.exceptions import UnsupportedMediaType

from webapp.actions.errors import RequestInvalid
from webapp.store.errors import UploadBroken


class Body:
    """The request's body; a client that goes away in the middle of it is an UploadBroken."""

    def read(self, size: int) -> bytes:
        try:
            return request.stream.read(size)
        except OSError as error:
            raise UploadBroken("The upload broke off before its end.") from error


def require_bare_body() -> None:
    """Raises UnsupportedMediaType or RequestInvalid: a form's envelope, or a part, would be taken for the file."""
    if (request.mimetype or "").startswith("multipart/"):
        raise UnsupportedMediaType("Send the file itself as the body (curl -T FILE), not as a form (curl -F).")
    if "Content-Range" in request.headers:
        raise RequestInvalid(
            "Content-Range is not read here. PUT the whole file, or begin an upload in parts with POST and PATCH it."
        )


def body_length() -> int | None:
    """Announced bytes, None for a chunked body; without either header HTTP has no body at all: 0."""
    if request.content_length is None and not request.environ.get("wsgi.input_terminated"):
        return 0
    return request.content_length
