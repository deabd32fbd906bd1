"""stars, tags and notes of runs, and their figures in a narrow table"""

from __future__ import annotations

from types import SimpleNamespace

import sqlalchemy as sa
from alembic import op

from webapp.store.figures import figures_of
from webapp.store.models import UtcDateTime

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

AT_ONCE = 200  # runs whose JSON is in memory
LISTED = ("created_at", "id", "state", "checkpoint_id", "dataset_id", "study_id", "starred", "name")
READ = ("recipe", "baseline", "result", "receipt", "started_at", "finished_at")


def upgrade() -> None:
    op.add_column("runs", sa.Column("starred", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index("runs_listed", "runs", [*LISTED])
    op.create_index("ix_runs_forked_from_id", "runs", ["forked_from_id"])
    op.create_table(
        "run_notes", run_id(), sa.Column("text", sa.Text(), nullable=False), sa.PrimaryKeyConstraint("run_id")
    )
    op.create_table(
        "run_tags",
        run_id(),
        sa.Column("tag", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "tag"),
        sqlite_with_rowid=False,
    )
    op.create_index("runs_by_tag", "run_tags", ["tag", "run_id"])
    figures = op.create_table(
        "run_figures",
        run_id(),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("text", sa.String(length=120), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "name"),
        sqlite_with_rowid=False,
    )
    fill(op.get_bind(), figures)
    op.create_index("runs_by_figure", "run_figures", ["name", "value", "text", "run_id"])


def fill(connection: sa.Connection, figures: sa.Table) -> None:
    """The figures of the runs that are there."""
    json, moment = sa.JSON(none_as_null=True), UtcDateTime()
    runs = sa.table(
        "runs",
        sa.column("id", sa.String()),
        *(sa.column(name, json) for name in READ[:4]),
        *(sa.column(name, moment) for name in READ[4:]),
    )
    ids = connection.scalars(sa.select(runs.c.id)).all()
    for start in range(0, len(ids), AT_ONCE):
        some = connection.execute(sa.select(runs).where(runs.c.id.in_(ids[start : start + AT_ONCE])))
        rows = [
            {"run_id": run.id, "name": name, "value": value, "text": text}
            for run in some
            for name, (value, text) in figures_of(SimpleNamespace(**{n: getattr(run, n) for n in READ})).items()
        ]
        if rows:
            connection.execute(sa.insert(figures), rows)


def downgrade() -> None:
    for table in ("run_figures", "run_tags", "run_notes"):
        op.drop_table(table)
    op.drop_index("ix_runs_forked_from_id", "runs")
    op.drop_index("runs_listed", "runs")
    op.drop_column("runs", "starred")


def run_id() -> sa.Column[str]:
    return sa.Column("run_id", sa.String(12), sa.ForeignKey("runs.id", ondelete="CASCADE"), nullable=False)
