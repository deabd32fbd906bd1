"""what a checkpoint is for, and what a run was measured by"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("task", sa.String(40), nullable=True))
    op.add_column("runs", sa.Column("task", sa.String(40), nullable=True))


def downgrade() -> None:
    op.drop_column("runs", "task")
    op.drop_column("checkpoints", "task")
