"""Downloads: streamed from the file store, in parts where asked, with the SHA-256 as ETag and as digest."""

from __future__ import annotations

import base64
import io
import mimetypes

from flask import Blueprint, Response, request, send_file
from werkzeug.exceptions import HTTPException, PreconditionFailed

from webapp.actions.errors import NotFound
from webapp.actions.file_names import artifact_name
from webapp.store.models import Artifact, Run
from webapp.web.connections import hold_place
from webapp.web.extensions import row_of, services

blueprint = Blueprint("artifacts", __name__)

CACHING = "private, no-cache"  # asked again every time: a share can be revoked; the ETag spares the bytes


@blueprint.get("/runs/<id>/artifacts/<path:name>")
def show(id: str, name: str) -> Response:
    return send_artifact(artifact_of(row_of(Run, id), name))


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
    environ = request.environ
    asked = request.range if request.method == "GET" else None
    weak = environ.get("HTTP_IF_RANGE", "").startswith("W/")  # not byte for byte the same: no part of it is mixed in
    if asked and asked.units == "bytes" and len(asked.ranges) == 1 and not weak:
        environ.pop("wsgi.file_wrapper", None)  # gunicorn's reads all that comes before the part
    else:
        environ.pop("HTTP_RANGE", None)
    size = services().files.size(artifact.digest)
    response = send_file(
        services().files.open(artifact.digest),
        media_type(artifact.name),
        as_attachment=True,
        download_name=artifact_name(artifact),
        conditional=False,  # it cannot know the size of what lies in an object store
        etag=artifact.digest,
    )
    whole = f"sha-256=:{base64.b64encode(bytes.fromhex(artifact.digest)).decode()}:"
    response.headers.update({"Repr-Digest": whole, "Cache-Control": CACHING})
    response.content_length = size
    try:
        response.make_conditional(environ, accept_ranges=True, complete_length=size)
        if response.status_code == 412:  # Werkzeug would send the file with it
            raise PreconditionFailed("The file is not the one that If-Match names.")
    except HTTPException:
        response.close()
        raise
    if response.status_code == 200:
        response.headers["Content-Digest"] = whole
    return response


def media_type(name: str) -> str:
    """Nothing that a browser would show: what users upload is never rendered as a page of ours."""
    guessed = mimetypes.guess_type(name)[0] or ""
    return guessed if guessed in ("application/json", "application/zip", "text/csv") else "application/octet-stream"


def disposition(name: str) -> str:
    """An attachment of that name, as Flask writes it for a file."""
    return send_file(io.BytesIO(), as_attachment=True, download_name=name).headers["Content-Disposition"]
