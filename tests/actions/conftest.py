"""A fresh database for each test that asks for one, SQLite and PostgreSQL in turn."""

import pytest

from tests.postgresql import fresh_database
from webapp.store.database import make_engine, make_sessions, upgrade


@pytest.fixture(params=["sqlite", "postgresql"])
def session(request, tmp_path):
    engine = make_engine(f"sqlite:///{tmp_path}/pare.db" if request.param == "sqlite" else fresh_database())
    upgrade(engine)
    with make_sessions(engine)() as session:
        yield session
    engine.dispose()
