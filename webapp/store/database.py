"""Engines for SQLite and PostgreSQL, and the migrations, applied at start."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from .clock import follow
from .errors import DatabaseUnusable

Row = TypeVar("Row", bound=object)
BUSY_TIMEOUT_MS = 30_000
MIGRATIONS = Path(__file__).parent / "migrations"
LIKE = "postgresql+psycopg://USER:PASSWORD@HOST/NAME."
MIGRATION_LOCK = 0x70617265  # "pare": the PostgreSQL advisory lock that one migrating process holds


def database_url(url: str | URL) -> URL:
    """The URL with PostgreSQL's driver filled in. Raises DatabaseUnusable where it is none, or of another database."""
    try:
        parsed = make_url(url)
    except ArgumentError:  # which is not repeated: it may hold a password
        raise DatabaseUnusable(
            "The URL of the database cannot be read; write it as sqlite:///FILE or " + LIKE
        ) from None
    if (other := parsed.get_backend_name()) not in ("sqlite", "postgresql"):
        raise DatabaseUnusable(f"The database is to be SQLite or PostgreSQL, not {other}; write its URL as {LIKE}")
    return parsed.set(drivername="postgresql+psycopg") if parsed.get_backend_name() == "postgresql" else parsed


def engine_options(url: str | URL) -> dict[str, Any]:
    """What `create_engine` is told beside the URL, for those who make their own engine (then: `prepare`)."""
    if database_url(url).get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": BUSY_TIMEOUT_MS / 1000}}
    return {"pool_pre_ping": True, "pool_recycle": 3600}  # seconds; a new connection is asked for the time


def make_engine(url: str | URL, tells_time: bool = True) -> Engine:
    """An engine whose transactions wait for each other instead of failing; also good for DBOS."""
    engine = create_engine(database_url(url), **engine_options(url))
    prepare(engine, tells_time)
    return engine


def prepare(engine: Engine, tells_time: bool = True) -> None:
    """SQLite: WAL, foreign keys, and writes that take the lock at once. Others are asked for the time (see clock).

    With the driver's isolation level IMMEDIATE a read outside a write takes no lock at all, and the first write
    starts with BEGIN IMMEDIATE, which waits; a read that turns into a write would fail without waiting.
    """
    if tells_time:
        follow(engine)
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        if engine.url.database not in (None, "", ":memory:"):
            _keep_private(Path(engine.url.database))
        connection.isolation_level = "IMMEDIATE"
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")


def _write_ahead(connection: Any) -> None:
    """Puts a new file into WAL mode, for which SQLite does not wait for those who read it, whatever `busy_timeout`."""
    until = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.05)


def _keep_private(path: Path) -> None:
    """Readable by this user alone. SQLite gives what it keeps beside the file the same mode.

    Only a file that is not there is opened: to close one would let go of the locks that others here hold on it.
    """
    with suppress(FileExistsError, FileNotFoundError):  # a folder that is missing is SQLite's to tell
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    with suppress(FileNotFoundError, PermissionError):  # it belongs to another user
        if path.is_file() and path.stat().st_mode & 0o077:
            path.chmod(0o600)


def make_sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine, expire_on_commit=False)


@contextmanager
def writing(sessions: sessionmaker[Session]) -> Iterator[Session]:
    """A session whose reads and writes are one: on SQLite it holds the write lock from the start.

    On PostgreSQL read with `with_for_update` what the writes depend on. Commits at the end, rolls back on an error.
    """
    with sessions.begin() as session:
        begin_writing(session)
        yield session


def begin_writing(session: Session) -> None:
    """From here on what the session reads and writes is one, as in `writing`. It has written nothing yet."""
    if session.get_bind().dialect.name == "sqlite":
        session.connection().exec_driver_sql("BEGIN IMMEDIATE")


def pass_alone(session: Session, number: int) -> None:
    """Until the transaction ends nobody else passes here with this number. The session has written nothing yet."""
    begin_writing(session)
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": number})


def locked(session: Session, row: Row, alone: int | None = None) -> Row | None:
    """The row as it is now, which only this session changes until its transaction ends; None where it is gone.

    With a number `alone`, nobody passes here with the same one until then: for what must hold for many rows together.
    The session has written nothing yet.
    """
    if alone is None:
        begin_writing(session)
    else:
        pass_alone(session, alone)
    return session.get(type(row), inspect(row).identity, with_for_update=True, populate_existing=True)


def upgrade(engine: Engine) -> None:
    """Brings the tables to this version. Several processes may do it at once: one works, the others wait.

    Raises DatabaseUnusable when the database cannot be reached or was made by a newer Pare.
    """
    try:
        with engine.begin() as connection:
            _lock(connection)
            if not _is_of_this_version(connection):
                _migrate(engine, connection)
    except OperationalError as error:
        raise DatabaseUnusable(unreachable(engine, error)) from error


def _is_of_this_version(connection: Connection) -> bool:
    """As it is at every start but the first, for which Alembic (with Mako and Pygments: 10 MB) is not imported."""
    newest = max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    known = inspect(connection).has_table("alembic_version")
    return known and connection.scalar(text("SELECT version_num FROM alembic_version")) == newest


def _migrate(engine: Engine, connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        shown = engine.url.render_as_string(hide_password=True)
        raise DatabaseUnusable(f"The database {shown} was made by a newer Pare ({error}); update this one.") from error


def unreachable(engine: Engine, error: OperationalError) -> str:
    """The sentence for a database that does not answer."""
    shown = engine.url.render_as_string(hide_password=True)
    return f"The database {shown} cannot be used: {str(error.orig).strip()}. Check database_url."


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
