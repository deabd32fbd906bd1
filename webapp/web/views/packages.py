"""Deployment packages: made when they are asked for, from the files that the run delivered."""

from __future__ import annotations

from contextlib import ExitStack

from flask import Blueprint, Response

from webapp.actions.deployments import fork_with_one
from webapp.actions.errors import NotFound
from webapp.actions.file_names import file_stem
from webapp.actions.packages import TARGETS, RunFiles, offered, pack
from webapp.store.models import Run
from webapp.web.connections import hold_place
from webapp.web.extensions import row_of, services

from .artifacts import CACHING, disposition

blueprint = Blueprint("packages", __name__)


@blueprint.get("/runs/<id>/packages/<target>")
def show(id: str, target: str) -> Response:
    return send_package(row_of(Run, id), target)


def send_package(run: Run, target: str) -> Response:
    """Raises NotFound with the packages that there are."""
    there = offered(run)
    if target not in there:
        names = ", ".join(there) or f"none; {fork_with_one()}"
        wanted = TARGETS[target].formats() if target in TARGETS else {}
        for missing in run.undelivered:
            if missing["format"] in wanted:
                raise NotFound(f"{missing['artifact']} was not delivered. {missing['reason']['message']}")
        known = "" if target in TARGETS else " There is no such package at all."
        raise NotFound(f"This run has no package {target[:40]!r}.{known} It has {names}.")
    hold_place()
    packed, model = there[target]
    taken = RunFiles(run, model, services().files)
    with ExitStack() as failed:
        failed.callback(taken.held.close)
        content = packed.content(taken)
        failed.pop_all()
    response = Response(pack(f"{taken.slug}-{target}", content), mimetype="application/zip")
    response.call_on_close(taken.held.close)
    response.headers["Cache-Control"] = CACHING
    response.headers["Content-Disposition"] = disposition(f"{file_stem(run)}-{target}.zip")
    return response
