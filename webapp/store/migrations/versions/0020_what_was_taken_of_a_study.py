"""which run of a study was taken"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("studies", sa.Column("taken_run_id", sa.String(length=12), nullable=True))


def downgrade() -> None:
    op.drop_column("studies", "taken_run_id")
