"""share links whose tokens do not lie in the database; the tokens that did are worth nothing any more"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    replace_table("id", 12)


def downgrade() -> None:
    replace_table("token", 64)


def replace_table(key: str, length: int) -> None:
    op.drop_table("shares")
    op.create_table(
        "shares",
        sa.Column(key, sa.String(length=length), nullable=False),
        sa.Column("run_ids", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("view", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint(key),
    )
