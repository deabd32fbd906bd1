"""Requests to deployed models: who asks is checked here, the rest is passed on to the model's own process.

The answer is passed on as it comes, so that a stream stays one. Errors have the form of the protocol that was spoken.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from webapp.actions.deployments import address_of, check_token, named
from webapp.actions.errors import Busy
from webapp.engine.errors import PareError
from webapp.serving.client import ModelConnection
from webapp.serving.errors import TooLarge, Unavailable, Unknown, error_body
from webapp.web.extensions import db, services

blueprint = Blueprint("serve", __name__, url_prefix="/serve")

PROTOCOLS = ("v1/", "v2/", "v2")  # what is passed on; anything else in the process is not for clients
PASSED_ON = ("Content-Type", "Accept", "Inference-Header-Content-Length")
PASSED_BACK = ("Content-Type", "Cache-Control", "Inference-Header-Content-Length", "Server-Timing", "Content-Length")
AT_ONCE = 16  # requests that one web process passes on; its other threads stay free for the pages
PIECE_BYTES = 1 << 16

waiting = threading.BoundedSemaphore(AT_ONCE)


@blueprint.route("/<name>/<path:path>", methods=["GET", "POST"])
def pass_on(name: str, path: str) -> ResponseReturnValue:
    found = named(db.session, name)
    check_token(found, request.headers.get("Authorization"))
    assert found is not None
    if not path.startswith(PROTOCOLS):
        raise Unknown(f"Nothing answers at /{path[:200]}; addresses begin with v1/ or v2/.")
    body = read_body(services().settings.max_request_bytes)
    address = address_of(found, services().settings.machine)
    db.session.close()  # the connection is not held while the model computes
    return answer_of(address, f"/{path}", body)


def read_body(limit_bytes: int) -> bytes:
    """Raises TooLarge before more than that is held."""
    too_large = TooLarge(
        f"The request is larger than {limit_bytes:,} bytes, the most that is taken (max_request_bytes)."
    )
    if (request.content_length or 0) > limit_bytes:
        raise too_large
    pieces, size = [], 0
    while piece := request.stream.read(PIECE_BYTES):
        size += len(piece)
        if size > limit_bytes:
            raise too_large
        pieces.append(piece)
    return b"".join(pieces)


def answer_of(address: str, path: str, body: bytes) -> Response:
    """Raises Unavailable where the process is not there, hangs, or has too much to do."""
    if not waiting.acquire(blocking=False):
        raise Unavailable(f"{AT_ONCE} requests are being answered; try again in a moment.")
    held = ExitStack()  # closed once: when the answer is through, or when the client went away before
    held.callback(waiting.release)
    connection = held.enter_context(closing(ModelConnection(address, services().settings.request_timeout_seconds)))
    try:
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        connection.request(request.method, path, body if request.method == "POST" else None, headers)
        answer = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        held.close()
        raise Unavailable("The model's process does not answer; it is started again if it ended.") from error
    response = Response(pieces_of(answer, held), status=answer.status)
    response.call_on_close(held.close)
    response.headers.clear()
    for name in PASSED_BACK:
        if value := answer.headers.get(name):
            response.headers[name] = value
    return response


def pieces_of(answer: http.client.HTTPResponse, held: ExitStack) -> Iterator[bytes]:
    with held:
        while piece := answer.read1(PIECE_BYTES):
            yield piece


@blueprint.errorhandler(PareError)
def refuse(error: PareError) -> ResponseReturnValue:
    path = request.path.removeprefix("/serve/").partition("/")[2]
    response = Response(error_body(f"/{path}", error), error.status, mimetype="application/json")
    if isinstance(error, Unavailable | Busy):
        response.headers["Retry-After"] = "2"
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="Pare"'
    return response
