"""Downloads: streamed from the file store, in parts where asked, with the SHA-256 as ETag and as digest."""

from __future__ import annotations

import base64
import mimetypes
from urllib.parse import quote

from flask import Blueprint, Response, request
from werkzeug.exceptions import PreconditionFailed
from werkzeug.http import parse_range_header
from werkzeug.wsgi import wrap_file

from webapp.actions.errors import NotFound
from webapp.actions.file_names import artifact_name
from webapp.store.models import Artifact, Run
from webapp.web.connections import hold_place
from webapp.web.database import db
from webapp.web.extensions import services

blueprint = Blueprint("artifacts", __name__)

CHUNK_BYTES = 1 << 18
CACHING = "private, no-cache"  # asked again every time: a share can be revoked; the ETag spares the bytes


@blueprint.get("/runs/<id>/artifacts/<path:name>")
def show(id: str, name: str) -> Response:
    run = db.session.get(Run, id)
    if run is None:
        raise NotFound(f"There is no run {id[:40]!r}. It may have been deleted.")
    return send_artifact(artifact_of(run, name))


def artifact_of(run: Run, name: str) -> Artifact:
    """Raises NotFound with the names that there are, or with why this one was not delivered."""
    found = next((artifact for artifact in run.artifacts if artifact.name == name), None)
    if found is not None and found.digest is None:
        raise NotFound(f"{name} was not delivered. {(found.reason or {}).get('message', '')}".strip())
    if found is None:
        names = ", ".join(artifact.name for artifact in run.delivered) or "none (yet)"
        raise NotFound(f"This run has no file {name[:80]!r}. It has {names}.")
    return found


def send_artifact(artifact: Artifact) -> Response:
    """Answers GET and HEAD with If-Match, If-None-Match, If-Range and a single Range (else the whole file, as RFC 9110
    allows).

    Raises Busy, PreconditionFailed, RequestedRangeNotSatisfiable, or FileMissing where the store lost the file.
    """
    assert artifact.digest is not None
    hold_place()
    size = services().files.size(artifact.digest)
    file = services().files.open(artifact.digest)
    body = wrap_file(request.environ, file, CHUNK_BYTES)
    response = Response(body, mimetype=media_type(artifact.name), direct_passthrough=True)
    response.call_on_close(file.close)
    response.content_length = size
    response.set_etag(artifact.digest)
    response.headers["Cache-Control"] = CACHING
    response.headers["Content-Disposition"] = disposition(artifact_name(artifact))
    whole = f"sha-256=:{base64.b64encode(bytes.fromhex(artifact.digest)).decode()}:"
    response.headers["Repr-Digest"] = whole
    asked = dict(request.environ)
    weak = asked.get("HTTP_IF_RANGE", "").startswith("W/")  # not byte for byte the same: no part of it is mixed in
    if weak or request.method != "GET" or not single_range(asked.get("HTTP_RANGE")):
        asked.pop("HTTP_RANGE", None)
    try:
        response.make_conditional(asked, accept_ranges=True, complete_length=size)
        if response.status_code == 412:  # Werkzeug would send the file with it
            raise PreconditionFailed("The file is not the one that If-Match names.")
    except BaseException:
        file.close()
        raise
    if response.status_code == 200:
        response.headers["Content-Digest"] = whole
    return response


def single_range(header: str | None) -> bool:
    found = parse_range_header(header)
    return found is not None and found.units == "bytes" and len(found.ranges) == 1


def media_type(name: str) -> str:
    """Nothing that a browser would show: what users upload is never rendered as a page of ours."""
    guessed = mimetypes.guess_type(name)[0] or ""
    return guessed if guessed in ("application/json", "application/zip", "text/csv") else "application/octet-stream"


def disposition(name: str) -> str:
    """An attachment under the artifact's name; folders become dashes, what is not ASCII goes into filename*."""
    flat = name.replace("/", "-").replace("\\", "-")
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.() ") else "_" for c in flat)
    extended = "" if plain == flat else f"; filename*=UTF-8''{quote(flat, safe='')}"
    return f'attachment; filename="{plain}"{extended}'
