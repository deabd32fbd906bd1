"""Many small applications: what each would work out anew comes from the zoo."""

import sqlite3
from pathlib import Path

import pytest
from flask import Flask
from jinja2 import FileSystemBytecodeCache

from tests import zoo
from webapp.store import database


@pytest.fixture(scope="module", autouse=True)  # others prove the migrations
def made_once():
    """The templates are compiled, and the migrations gone through, by whichever application is first to need them."""
    migrate = database._migrate

    def build(folder):
        engine = database.make_engine(f"sqlite:///{folder / 'pare.db'}")
        with engine.begin() as connection:
            migrate(engine, connection)
        engine.dispose()

    def migrate_as_before(engine, connection):
        made = sqlite3.connect(zoo.once("database", build) / "pare.db")
        for statement in list(made.iterdump())[1:-1]:  # without BEGIN and COMMIT, which are the caller's
            connection.exec_driver_sql(statement)
        made.close()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(database, "_migrate", migrate_as_before)
        patched.setitem(Flask.jinja_options, "bytecode_cache", FileSystemBytecodeCache(zoo.once("templates", Path)))
        yield
