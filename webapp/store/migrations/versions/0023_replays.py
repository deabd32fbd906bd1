"""datasets replayed through deployments"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from webapp.store.models import RunState, UtcDateTime, state_column

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    json, moment = sa.JSON(none_as_null=True), UtcDateTime()
    op.create_table(
        "replays",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column(
            "deployment_id", sa.String(length=12), sa.ForeignKey("deployments.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("beside_id", sa.String(length=12), sa.ForeignKey("deployments.id", ondelete="SET NULL")),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("result", json, nullable=True),
        sa.Column("state", state_column(RunState), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("error", json, nullable=True),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("message", sa.String(length=500), nullable=False),
        sa.Column("seconds_left", sa.Double(), nullable=True),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("started_at", moment, nullable=True),
        sa.Column("finished_at", moment, nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    for column in ("deployment_id", "beside_id", "state", "created_at"):
        op.create_index(f"ix_replays_{column}", "replays", [column])


def downgrade() -> None:
    op.drop_table("replays")
