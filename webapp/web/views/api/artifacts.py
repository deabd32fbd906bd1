"""The files that a run made."""

from __future__ import annotations

from flask import Response

from webapp.actions import run_requests
from webapp.actions.packages import offered
from webapp.store.models import Run
from webapp.web.extensions import db, row_of, services
from webapp.web.views.artifacts import artifact_of, send_artifact
from webapp.web.views.packages import send_package

from . import schemas
from .answers import run_answer
from .endpoints import endpoint


@endpoint("GET", "/runs/<id>/artifacts", "The files of a run, and the formats that failed")
def get_artifacts(id: str) -> schemas.Items[schemas.ArtifactAnswer]:
    return schemas.Items[schemas.ArtifactAnswer](items=row_of(Run, id).artifacts)


@endpoint(
    "GET",
    "/runs/<id>/artifacts/<path:name>",
    "Download a file: takes Range, and the ETag is its SHA-256",
    media_type="application/octet-stream",
    errors=(416,),
    example="-O -C -",
)
def get_artifact(id: str, name: str) -> Response:
    return send_artifact(artifact_of(row_of(Run, id), name))


@endpoint(
    "POST",
    "/runs/<id>/artifacts/<path:name>/retry",
    "Write and prove a format again that failed; the others keep their files",
    status=202,
    errors=(409,),
)
def retry_artifact(id: str, name: str) -> schemas.RunAnswer:
    run = row_of(Run, id)
    run_requests.retry_artifact(db.session, services().jobs, run, name)
    return run_answer(run)


@endpoint("GET", "/runs/<id>/packages", "Deployment packages that the run can be downloaded as")
def get_packages(id: str) -> schemas.Items[schemas.PackageAnswer]:
    return schemas.Items[schemas.PackageAnswer](items=list(offered(row_of(Run, id))))


@endpoint(
    "GET",
    "/runs/<id>/packages/<target>",
    "A zip of the model with all that runs it there",
    media_type="application/zip",
    example="-O -J",
)
def get_package(id: str, target: str) -> Response:
    return send_package(row_of(Run, id), target)
