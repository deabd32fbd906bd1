"""formats that failed, beside those that were delivered"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("stages", sa.Column("error", sa.JSON(none_as_null=True), nullable=True))
    with op.batch_alter_table("artifacts") as table:
        table.add_column(sa.Column("state", sa.String(12), nullable=False, server_default="succeeded"))
        table.add_column(sa.Column("reason", sa.JSON(none_as_null=True), nullable=True))
        table.alter_column("digest", existing_type=sa.String(64), nullable=True)
        table.alter_column("size_bytes", existing_type=sa.BigInteger(), nullable=True)


def downgrade() -> None:
    op.execute("DELETE FROM artifacts WHERE state = 'failed'")
    op.execute("UPDATE stages SET state = 'failed' WHERE state = 'skipped'")
    with op.batch_alter_table("artifacts") as table:
        table.drop_column("reason")
        table.drop_column("state")
        table.alter_column("digest", existing_type=sa.String(64), nullable=False)
        table.alter_column("size_bytes", existing_type=sa.BigInteger(), nullable=False)
    op.drop_column("stages", "error")
