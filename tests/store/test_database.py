"""Tables come from migrations, writers wait for each other, and a database that cannot be used is said to be so."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from tests.patience import PATIENCE_SECONDS
from webapp.store.database import make_engine, upgrade, writing
from webapp.store.errors import DatabaseUnusable
from webapp.store.models import Base, Checkpoint


def checkpoint(**changed):
    return Checkpoint(**{"name": "digits", "filename": "digits.pt", "size_bytes": 1, "digest": "0" * 64} | changed)


def test_the_migrations_make_exactly_what_the_models_say(engine):
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrading_again_changes_nothing(engine):
    upgrade(engine)
    assert "runs" in inspect(engine).get_table_names()


def test_processes_that_upgrade_at_once_wait_for_each_other(url):
    code = f"from webapp.store.database import *; upgrade(make_engine({url!r}))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(process.communicate(timeout=PATIENCE_SECONDS)[1], process.returncode) for process in processes] == [
        ("", 0)
    ] * 3
    engine = make_engine(url)
    assert {"alembic_version", "runs"} <= set(inspect(engine).get_table_names())
    engine.dispose()


def test_those_who_are_the_first_to_open_a_file_wait_for_each_other(tmp_path):
    def opened(path, ready):
        engine = make_engine(f"sqlite:///{path}")
        ready.wait(PATIENCE_SECONDS)
        with engine.connect() as connection:
            mode = connection.execute(text("PRAGMA journal_mode")).scalar()
        engine.dispose()
        return mode

    with ThreadPoolExecutor(3) as threads:
        for number in range(40):  # of which some fail where nobody waits
            path, ready = tmp_path / f"{number}.db", threading.Barrier(3)
            assert list(threads.map(opened, [path] * 3, [ready] * 3)) == ["wal"] * 3


def test_a_database_made_by_a_newer_pare_is_refused(engine):
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseUnusable, match="made by a newer Pare"):
        upgrade(engine)


def test_a_database_that_is_not_there_is_said_without_its_password(tmp_path):
    for url in (f"sqlite:///{tmp_path}/missing/pare.db", "postgresql://pare:sesame@127.0.0.1:1/pare"):
        with pytest.raises(DatabaseUnusable, match="cannot be used") as caught:
            upgrade(make_engine(url))
        assert "sesame" not in caught.value.message


def test_many_writers_at_once_all_get_through(sessions):
    with sessions.begin() as session:
        session.add(checkpoint(id="counter", size_bytes=0))

    def add_one(_):
        with writing(sessions) as session:
            row = session.get(Checkpoint, "counter", with_for_update=True)
            row.size_bytes += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add_one, range(80)))
    with sessions() as session:
        assert session.get(Checkpoint, "counter").size_bytes == 80


def test_a_reader_is_not_held_up_by_a_writer(sessions):
    with sessions.begin() as session:
        session.add(checkpoint(id="read"))
    held, done = threading.Event(), threading.Event()

    def write():
        with writing(sessions) as session:
            session.get(Checkpoint, "read").name = "written"
            session.flush()
            held.set()
            done.wait(PATIENCE_SECONDS)

    writer = threading.Thread(target=write)
    writer.start()
    held.wait(PATIENCE_SECONDS)
    with sessions() as session:
        assert session.get(Checkpoint, "read").name == "digits"
    done.set()
    writer.join()


def test_an_error_takes_the_whole_transaction_back(sessions):
    def fail():
        with writing(sessions) as session:
            session.add(checkpoint(id="never"))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with sessions() as session:
        assert session.get(Checkpoint, "never") is None


def test_a_database_is_this_user_s_alone(tmp_path):
    path = tmp_path / "pare.db"
    for found in (None, 0o644):  # made, and there before
        if found:
            path.chmod(found)
        engine = make_engine(f"sqlite:///{path}")
        upgrade(engine)
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM shares"))
            kept = [each for each in tmp_path.iterdir() if each.name.startswith("pare.db")]
            assert all(each.stat().st_mode & 0o077 == 0 for each in kept if found is None or each == path)
        engine.dispose()


@pytest.mark.parametrize(
    ("url", "says"), [("secret@nowhere", "cannot be read; write it as sqlite"), ("mysql://a@b/c", "not mysql")]
)
def test_a_url_of_no_database_that_pare_keeps_gets_a_sentence(url, says):
    with pytest.raises(DatabaseUnusable, match=says) as refused:
        make_engine(url)
    assert "secret" not in str(refused.value)
