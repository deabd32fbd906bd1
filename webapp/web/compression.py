"""Answers are sent packed to those who can unpack them: pages, JSON and our own scripts and styles take a fifth.

What is streamed or is a download is left as it is, and so is an answer that a page of another site asked for: from the
length of such answers it could guess what is secret in them (BREACH).
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from functools import lru_cache

from flask import Flask, Response, make_response, request

PACKED = ("text/", "application/json", "application/javascript", "image/svg+xml")
LEAST_BYTES = 1000  # below it a packet is a packet
LEVEL = 6


def unless_known(told: str, page: Callable[[], str | Response]) -> Response:
    """304 where the client has the page that was made of what is `told`: an open page asks again and again."""
    etag = hashlib.sha256(told.encode()).hexdigest()[:32]
    if request.if_none_match.contains(etag) or request.if_none_match.contains(f"{etag}-gzip"):
        response = Response(status=304)
    else:
        response = make_response(page())
    response.set_etag(etag)
    response.cache_control.no_cache = True
    return response


def init_compression(app: Flask) -> None:
    app.after_request(compress)


def compress(response: Response) -> Response:
    """gzip, with an ETag of its own, and Vary."""
    file = response.direct_passthrough and request.endpoint in ("static", "bootstrap.static")
    if (
        response.status_code not in (200, 304)
        or not (response.mimetype or "").startswith(PACKED)
        or "Content-Encoding" in response.headers
        or (response.is_streamed and not file)
    ):
        return response
    response.vary.add("Accept-Encoding")
    asks = request.accept_encodings.quality("gzip") > 0 and request.headers.get("Sec-Fetch-Site") != "cross-site"
    if not asks or response.status_code == 304 or (response.content_length or LEAST_BYTES) < LEAST_BYTES:
        return response
    etag, _ = response.get_etag()
    response.direct_passthrough = False
    content = response.get_data()
    response.set_data(_file(etag, content) if file and etag else gzip.compress(content, LEVEL, mtime=0))
    response.headers["Content-Encoding"] = "gzip"
    if etag:
        response.set_etag(f"{etag}-gzip")
        response.make_conditional(request)
    return response


@lru_cache(256)
def _file(etag: str, content: bytes) -> bytes:
    """Of one of our own files: packed once."""
    return gzip.compress(content, 9, mtime=0)
