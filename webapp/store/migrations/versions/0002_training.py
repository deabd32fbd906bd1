"""the curves that a stage draws while it goes on, and the checkpoint that teaches a run"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("stages", sa.Column("curves", sa.JSON(none_as_null=True), nullable=True))
    teacher = sa.Column("teacher_checkpoint_id", sa.String(length=12), sa.ForeignKey("checkpoints.id"), nullable=True)
    op.add_column("runs", teacher, inline_references=True)


def downgrade() -> None:
    op.drop_column("runs", "teacher_checkpoint_id")
    op.drop_column("stages", "curves")
