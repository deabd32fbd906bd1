"""what results go on from: continued runs, the best of a checkpoint, its versions, and files that came back"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

REFERENCES = (  # table, column, the table it names
    ("runs", "continued_from_id", "runs"),
    ("runs", "best_of_id", "checkpoints"),
    ("checkpoints", "newer_than_id", "checkpoints"),
    ("checkpoints", "delivered_by_id", "runs"),
)


def upgrade() -> None:
    for table, name, other in REFERENCES:
        column = sa.Column(name, sa.String(12), sa.ForeignKey(f"{other}.id"), nullable=True)
        op.add_column(table, column, inline_references=True)
        op.create_index(f"ix_{table}_{name}", table, [name], unique=name == "best_of_id")
    op.create_index("ix_artifacts_digest", "artifacts", ["digest"])


def downgrade() -> None:
    op.drop_index("ix_artifacts_digest", "artifacts")
    for table, name, _ in reversed(REFERENCES):
        op.drop_index(f"ix_{table}_{name}", table)
        op.drop_column(table, name)
