"""profiles, studies, and what a run is in its study and was expected to give"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATES = ("queued", "running", "succeeded", "failed", "cancelled")


def upgrade() -> None:
    op.create_table(
        "profiles",
        *job(),
        reference("checkpoint_id", "checkpoints", nullable=False),
        reference("dataset_id", "datasets"),
        reference("training_dataset_id", "datasets"),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("preprocessing", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("task", sa.String(length=40), nullable=True),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("facts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("measured", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("profiles_by_key", "profiles", ["key", "state"])
    op.create_table(
        "studies",
        *job(),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        reference("checkpoint_id", "checkpoints", nullable=False),
        reference("dataset_id", "datasets"),
        reference("profile_id", "profiles", ondelete="SET NULL"),
        sa.Column("question", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("conclusion", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    for table in ("profiles", "studies"):
        for column in ("checkpoint_id", "created_at", "state"):
            op.create_index(f"ix_{table}_{column}", table, [column])
    op.add_column("runs", reference("study_id", "studies", ondelete=None), inline_references=True)
    op.create_index("ix_runs_study_id", "runs", ["study_id"])
    op.add_column("runs", sa.Column("role", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("runs", sa.Column("expected", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("runs", "expected")
    op.drop_column("runs", "role")
    op.drop_index("ix_runs_study_id", "runs")
    op.drop_column("runs", "study_id")
    op.drop_table("studies")
    op.drop_table("profiles")


def job() -> tuple[sa.Column[object], ...]:
    moment = sa.DateTime(timezone=True)
    return (
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
    )


def reference(name: str, table: str, *, nullable: bool = True, ondelete: str | None = "CASCADE") -> sa.Column[object]:
    return sa.Column(name, sa.String(12), sa.ForeignKey(f"{table}.id", ondelete=ondelete), nullable=nullable)
