"""Run by Alembic. Inside Pare, `webapp.store.database.upgrade` hands over its connection; a developer may also call

alembic --config webapp/store/migrations/alembic.ini revision --autogenerate -m "what changes"
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from webapp.store.database import make_engine
from webapp.store.models import Base


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    context.run_migrations()  # in the transaction of the connection


if handed_over := context.config.attributes.get("connection"):
    migrate(handed_over)
else:
    with make_engine(context.config.get_main_option("sqlalchemy.url", "")).begin() as own:
        migrate(own)
