"""results that are pushed to a hub"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

STATES = ("queued", "running", "succeeded", "failed", "cancelled")


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "publications",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("state", sa.Enum(*STATES, native_enum=False, length=12), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("message", sa.String(length=500), nullable=False),
        sa.Column("seconds_left", sa.Double(), nullable=True),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("started_at", moment, nullable=True),
        sa.Column("finished_at", moment, nullable=True),
        sa.Column("run_id", sa.String(12), sa.ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("repo_id", sa.String(length=200), nullable=False),
        sa.Column("private", sa.Boolean(), nullable=False),
        sa.Column("url", sa.String(length=1000), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    for column in ("run_id", "created_at", "state"):
        op.create_index(f"ix_publications_{column}", "publications", [column])


def downgrade() -> None:
    op.drop_table("publications")
