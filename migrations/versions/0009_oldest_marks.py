"""What has been dirty for longest is found without looking at everything that is."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("CREATE INDEX dirty_spans_marked_at_idx ON dirty_spans (marked_at)")


def downgrade() -> None:
    op.execute("DROP INDEX dirty_spans_marked_at_idx")
