"""What jobs and tasks cost, and what jobs may cost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("max_cost", sa.Double()))
    op.add_column("jobs", sa.Column("unpriced", sa.Boolean(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("known_cost", sa.Double(), nullable=False, server_default="0"))
    op.add_column(
        "jobs", sa.Column("unknown_costs", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.add_column("tasks", sa.Column("known_cost", sa.Double()))
    op.add_column("tasks", sa.Column("unknown_costs", sa.BigInteger()))
