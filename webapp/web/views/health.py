"""Whether Pare works: its database answers, its file store takes files, there is room, and who computes."""

from __future__ import annotations

import shutil
from contextlib import suppress

from flask import Blueprint
from flask.typing import ResponseReturnValue
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from webapp.actions.workers import alive
from webapp.store.errors import StoreError
from webapp.store.space import shortage
from webapp.web.extensions import db, services

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> ResponseReturnValue:
    checks = {"database": database_problem(), "store": store_problem()}
    healthy = not any(checks.values())
    short = space_problem()  # what is there is still shown: no reason to be taken out of service
    shown = {name: problem or "ok" for name, problem in (checks | {"space": short}).items()}
    if not checks["database"]:
        shown["workers"] = f"{len(alive(db.session))} alive"
    status = "unavailable" if not healthy else "short of space" if short else "ok"
    return {"status": status, **shown}, 200 if healthy else 503


def database_problem() -> str | None:
    try:
        db.session.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        return f"The database does not answer: {type(error).__name__}."
    return None


def space_problem() -> str | None:
    """On the disk with the database and the work in progress, or on that of the files."""
    settings = services().settings
    free = [shutil.disk_usage(settings.instance).free]
    with suppress(OSError):  # told as the store's problem
        free += filter(None, [services().files.free_bytes()])
    return shortage(min(free), settings.min_free_bytes)


def store_problem() -> str | None:
    try:
        services().files.free_bytes()  # of a folder
        services().files.exists("0" * 64)  # of a remote store
    except (StoreError, OSError) as error:
        return str(error)
    return None
