"""where a checkpoint comes from, its files that stay where they are, and how far its inspection is"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("source", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("checkpoints", sa.Column("in_place", sa.JSON(none_as_null=True), nullable=False, server_default="{}"))
    op.add_column("checkpoints", sa.Column("progress", sa.Double(), nullable=False, server_default="0"))
    op.add_column("checkpoints", sa.Column("message", sa.String(500), nullable=False, server_default=""))


def downgrade() -> None:
    for name in ("source", "in_place", "progress", "message"):
        op.drop_column("checkpoints", name)
