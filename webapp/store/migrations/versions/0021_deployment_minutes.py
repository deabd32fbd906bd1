"""what the processes of deployments measure, minute by minute"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deployment_minutes",
        sa.Column(
            "deployment_id", sa.String(length=12), sa.ForeignKey("deployments.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("minute", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("started_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("errors", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("latencies", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("deployment_id", "minute", "started_at"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("deployment_minutes")
