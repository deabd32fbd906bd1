"""the runs of a checkpoint that go on from no other are found without their receipts being read"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    columns = ["checkpoint_id", "continued_from_id", "forked_from_id", "created_at", "id"]
    op.create_index("runs_by_lineage", "runs", columns)


def downgrade() -> None:
    op.drop_index("runs_by_lineage", "runs")
