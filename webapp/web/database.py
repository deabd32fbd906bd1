"""The database as requests see it: `db.session` is closed when the request ends."""

from __future__ import annotations

from flask import Flask
from flask_sqlalchemy_lite import SQLAlchemy

from webapp.store.database import database_url, engine_options, prepare, upgrade

db = SQLAlchemy(session_options={"expire_on_commit": False})


def init_database(app: Flask, url: str) -> None:
    """Connects the application and brings the tables to this version. Raises DatabaseUnusable."""
    app.config["SQLALCHEMY_ENGINES"] = {"default": {"url": database_url(url), **engine_options(url)}}
    db.init_app(app)
    with app.app_context():
        prepare(db.engine)
        upgrade(db.engine)
