"""Which milestones were imported, and what the browser of each session was."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("ALTER TABLE learning_journey_events ADD COLUMN imported boolean NOT NULL DEFAULT false")
    op.execute(
        "ALTER TABLE user_sessions ADD COLUMN device_type text NOT NULL DEFAULT 'OTHER',"
        " ADD COLUMN browser text, ADD COLUMN os text"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE user_sessions DROP COLUMN device_type, DROP COLUMN browser, DROP COLUMN os")
    op.execute("ALTER TABLE learning_journey_events DROP COLUMN imported")
