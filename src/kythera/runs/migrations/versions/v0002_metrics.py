"""Metrics, artifacts, what a run found, and what it may cost."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """To this version."""
    op.add_column("account", sa.Column("cpu_seconds_limit", sa.Double()))
    op.add_column("account", sa.Column("price_limit", sa.Double()))
    for name, kind, before in (  # the last one is for the rows that are there
        ("record", sa.Text(), ""),
        ("recommended", sa.LargeBinary(), sa.text("''")),
        ("limits", sa.Text(), "{}"),
        ("executor", sa.Text(), ""),
        ("price_per_hour", sa.Double(), "0"),
        ("tracker", sa.Text(), "{}"),
    ):
        column = sa.Column(name, kind, nullable=False, server_default=before)
        op.add_column("run", column)
    op.create_table(
        "metric",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.ForeignKeyConstraint(
            ["run_id"], ["run.id"], name=op.f("fk_metric_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metric")),
    )
    op.create_index(op.f("ix_metric_run_id"), "metric", ["run_id"])
    op.create_table(
        "artifact",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["run.id"], name=op.f("fk_artifact_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "number", "name", name=op.f("pk_artifact")),
    )
    op.create_index(op.f("ix_artifact_sha256"), "artifact", ["sha256"])
