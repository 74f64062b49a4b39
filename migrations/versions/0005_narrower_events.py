"""Events in the order of a subject's time, by one index where there were two, and without what their type tells."""

from alembic import op

revision = "0005"
down_revision = "0004"

TABLES = ("user_activity_events", "learning_journey_events")
CATEGORIES = {
    "NAVIGATION": ("page_view", "route_change", "page_exit"),
    "QUEST": (
        *("quest_viewed", "quest_started", "quest_abandoned", "quest_completed"),
        *("task_viewed", "task_completed", "evidence_uploaded"),
    ),
    "BADGE": ("badge_viewed", "badge_claimed", "badge_earned"),
    "TUTOR": ("tutor_opened", "tutor_message_sent", "tutor_safety_flag"),
    "COMMUNITY": ("connection_request_sent", "connection_accepted", "profile_viewed"),
    "AUTH": ("login_success", "login_failed", "logout", "session_expired"),
    "PARENT": ("parent_dashboard_opened", "parent_evidence_uploaded"),
    "ERROR": ("javascript_error", "api_error", "network_error"),
}


def upgrade() -> None:
    for table in TABLES:
        op.execute(f"DROP INDEX {table}_subject_key_occurred_at_idx")
        _order_key_by(table, "subject_key, occurred_at, event_id")
    op.execute("ALTER TABLE user_activity_events DROP COLUMN event_category")


def downgrade() -> None:
    cases = " ".join(
        f"WHEN event_type IN ({', '.join(map(repr, types))}) THEN '{category}'"
        for category, types in CATEGORIES.items()
    )
    op.execute("ALTER TABLE user_activity_events ADD COLUMN event_category text")
    op.execute(f"UPDATE user_activity_events SET event_category = CASE {cases} ELSE 'CUSTOM' END")
    op.execute("ALTER TABLE user_activity_events ALTER COLUMN event_category SET NOT NULL")
    for table in TABLES:
        _order_key_by(table, "subject_key, event_id, occurred_at")
        op.execute(f"CREATE INDEX {table}_subject_key_occurred_at_idx ON {table} (subject_key, occurred_at)")


def _order_key_by(table: str, columns: str) -> None:
    op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey")
    op.execute(f"ALTER TABLE {table} ADD PRIMARY KEY ({columns})")
