"""Whether Pare works: its database answers and its file store takes files."""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from ..database import db
from ..services import services
from ..store.errors import StoreError

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> ResponseReturnValue:
    checks = {"database": database_problem(), "store": store_problem()}
    healthy = not any(checks.values())
    shown = {name: problem or "ok" for name, problem in checks.items()}
    return {"status": "ok" if healthy else "unavailable", **shown}, 200 if healthy else 503


def database_problem() -> str | None:
    try:
        db.session.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        return f"The database does not answer: {type(error).__name__}."
    return None


def store_problem() -> str | None:
    try:
        services().files.free_bytes()  # of a folder
        services().files.exists("0" * 64)  # of a remote store
    except (StoreError, OSError) as error:
        return str(error)
    return None
