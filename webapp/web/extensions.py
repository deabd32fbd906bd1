"""What the pages and the API work with: `db.session`, which is closed when the request ends, and `services()`."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from flask import Flask, current_app
from flask_sqlalchemy_lite import SQLAlchemy

from webapp.actions.errors import NotFound
from webapp.config import InstallationSettings
from webapp.jobs.client import JobClient
from webapp.store.database import database_url, engine_options, prepare, upgrade
from webapp.store.files import FileStore

Row = TypeVar("Row")

db = SQLAlchemy(session_options={"expire_on_commit": False})


def init_database(app: Flask, url: str) -> None:
    """Connects the application and brings the tables to this version. Raises DatabaseUnusable."""
    app.config["SQLALCHEMY_ENGINES"] = {"default": {"url": database_url(url), **engine_options(url)}}
    db.init_app(app)
    # async sessions, of which there are none, would be closed in a thread and an event loop of its own at each request
    app.teardown_appcontext_funcs[:] = [f for f in app.teardown_appcontext_funcs if not iscoroutinefunction(f)]
    with app.app_context():
        prepare(db.engine)
        upgrade(db.engine)


@dataclass(frozen=True)
class Services:
    """Reached as `services()` within a request."""

    settings: InstallationSettings
    files: FileStore
    jobs: JobClient


def taking_in() -> dict[str, Any]:
    """What `actions.uploads` takes an upload in with."""
    found = services()
    limit = found.settings.max_upload_bytes
    return {"session": db.session, "files": found.files, "jobs": found.jobs, "limit_bytes": limit}


def importing() -> dict[str, Any]:
    """What `actions.imports` takes a checkpoint in with."""
    found = services()
    return {"session": db.session, "jobs": found.jobs, "settings": found.settings}


def services() -> Services:
    found: Services = current_app.extensions["pare"]
    return found


def row_of(table: type[Row], id_: str) -> Row:
    """The row of this id. Raises NotFound."""
    row = db.session.get(table, id_) if id_.isascii() and id_.isalnum() else None
    if row is None:
        noun = table.__name__.lower()
        raise NotFound(f"There is no {noun} {id_[:40]!r}. It may have been deleted.")
    return row
