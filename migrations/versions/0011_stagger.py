"""Whether a monitor's refits are spread over nights is decided once.

Those that are at work go on as they did: spread, where their config did not say otherwise.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("monitor", sa.Column("stagger", sa.Boolean(), nullable=True))
    op.execute(
        sa.text("UPDATE monitor SET stagger = :on WHERE id IN (SELECT monitor_id FROM target)").bindparams(
            on=True
        )
    )


def downgrade() -> None:
    op.drop_column("monitor", "stagger")
