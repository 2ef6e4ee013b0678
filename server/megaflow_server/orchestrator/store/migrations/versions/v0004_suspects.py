"""Which attempts had a worker of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("alone", sa.Boolean(), nullable=False, server_default="0"))
