"""Smaller rows, without what follows from something else, and indexes of weeks that are over written anew."""

from alembic import context, op

revision = "0010"
down_revision = "0009"

EVENTS, SESSIONS, DAYS, CONTRIBUTIONS = TABLES = (
    "user_activity_events",
    "user_sessions",
    "daily_activity",
    "daily_contributions",
)
PARTITIONED = (EVENTS, SESSIONS, CONTRIBUTIONS)
MINUTE = "date_bin('1 minute', occurred_at, '2000-01-01 00:00Z')"

LOGOUTS = """
UPDATE user_sessions AS session SET logout_id = NULL WHERE NOT EXISTS (
    SELECT FROM user_activity_events AS event
    WHERE event.subject_key = session.subject_key AND event.occurred_at = session.ended_at
    AND event.event_id = session.logout_id AND event.event_type = 'logout'
)
"""
WITHOUT_END = """
UPDATE {table} SET events_by_category = events_by_category[
    :(SELECT max(place) FROM unnest(events_by_category) WITH ORDINALITY AS one (number, place) WHERE number > 0)
]
"""
# Of the views of a page in a day, as many are of each kind as were in the column of that kind.
TO_KINDS = """
UPDATE daily_contributions AS mine SET page_views = (
    SELECT array_agg(page * 4 + CASE
        WHEN nth <= cardinality(array_positions(page_bounces, page)) THEN 3
        WHEN nth <= cardinality(array_positions(page_entries, page)) THEN 2
        WHEN nth <= cardinality(array_positions(page_sessions, page)) THEN 1
        ELSE 0
    END ORDER BY place)
    FROM (
        SELECT page, place, row_number() OVER (PARTITION BY page ORDER BY place) AS nth
        FROM unnest(page_views) WITH ORDINALITY AS one (page, place)
    ) AS viewed
)
WHERE page_views IS NOT NULL
"""
FROM_KINDS = """
UPDATE daily_contributions SET
    page_bounces = (SELECT array_agg(view / 4) FROM unnest(page_views) AS view WHERE view % 4 = 3),
    page_entries = (SELECT array_agg(view / 4) FROM unnest(page_views) AS view WHERE view % 4 >= 2),
    page_sessions = (SELECT array_agg(view / 4) FROM unnest(page_views) AS view WHERE view % 4 >= 1),
    page_views = (
        SELECT array_agg(view / 4 ORDER BY place) FROM unnest(page_views) WITH ORDINALITY AS one (view, place)
    )
"""
WITH_END = """
UPDATE {table} SET events_by_category = events_by_category || array_fill(0, ARRAY[9 - cardinality(events_by_category)])
"""

# One that was ever written anew has another file than it was made with.
REBUILD_INDEX = f"""
CREATE FUNCTION rebuild_index(quiet_since timestamptz, largest bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp SET timezone = 'UTC' SET lock_timeout = '200ms' AS $$
DECLARE
    loose regclass;
BEGIN
    SELECT index.oid INTO loose
    FROM pg_inherits
    JOIN pg_class AS part ON part.oid = inhrelid
    JOIN pg_index ON indrelid = part.oid
    JOIN pg_class AS index ON index.oid = indexrelid
    JOIN pg_am ON pg_am.oid = index.relam
    WHERE inhparent = ANY (ARRAY{list(PARTITIONED)!r}::regclass[])
    AND part.relname <= inhparent::regclass || to_char(quiet_since - interval '7 days', '_YYYYMMDD')
    AND amname = 'btree' AND index.relfilenode = index.oid
    AND pg_relation_size(index.oid) BETWEEN 4 * 8192 AND largest
    ORDER BY part.relname, index.relname LIMIT 1;
    IF loose IS NOT NULL THEN
        EXECUTE format('REINDEX INDEX %s', loose);
    END IF;
    RETURN loose IS NOT NULL;
END $$
"""


def upgrade() -> None:
    _force("NO FORCE")
    op.execute(f"ALTER TABLE {EVENTS} DROP user_id")
    op.execute(f"DROP INDEX {EVENTS}_occurred_at_idx")
    op.execute(f"CREATE INDEX {EVENTS}_minute_idx ON {EVENTS} ({MINUTE})")
    op.execute(f"ALTER TABLE {SESSIONS} RENAME last_event_id TO logout_id")
    op.execute(f"ALTER TABLE {SESSIONS} ALTER logout_id DROP NOT NULL")
    op.execute(LOGOUTS)
    op.execute(f"ALTER TABLE {DAYS} ALTER quests_viewed DROP NOT NULL")
    op.execute(f"UPDATE {DAYS} SET quests_viewed = NULL WHERE quests_viewed = '{{}}'")
    for table in (DAYS, CONTRIBUTIONS):
        op.execute(WITHOUT_END.format(table=table))
    op.execute(TO_KINDS)
    op.execute(f"ALTER TABLE {CONTRIBUTIONS} DROP page_sessions, DROP page_entries, DROP page_bounces")
    op.execute(REBUILD_INDEX)
    op.execute("REVOKE ALL ON FUNCTION rebuild_index(timestamptz, bigint) FROM PUBLIC")
    worker = context.config.attributes["logins"]["worker"].replace('"', '""')
    op.execute(f'GRANT EXECUTE ON FUNCTION rebuild_index(timestamptz, bigint) TO "{worker}"')
    _force("FORCE")


def downgrade() -> None:
    _force("NO FORCE")
    op.execute("DROP FUNCTION rebuild_index(timestamptz, bigint)")
    op.execute(
        f"ALTER TABLE {CONTRIBUTIONS}"
        " ADD page_sessions integer[], ADD page_entries integer[], ADD page_bounces integer[]"
    )
    op.execute(FROM_KINDS)
    for table in (DAYS, CONTRIBUTIONS):
        op.execute(WITH_END.format(table=table))
    op.execute(f"UPDATE {DAYS} SET quests_viewed = '{{}}' WHERE quests_viewed IS NULL")
    op.execute(f"ALTER TABLE {DAYS} ALTER quests_viewed SET NOT NULL")
    op.execute(f"UPDATE {SESSIONS} SET logout_id = first_event_id WHERE logout_id IS NULL")
    op.execute(f"ALTER TABLE {SESSIONS} ALTER logout_id SET NOT NULL")
    op.execute(f"ALTER TABLE {SESSIONS} RENAME logout_id TO last_event_id")
    op.execute(f"DROP INDEX {EVENTS}_minute_idx")
    op.execute(f"CREATE INDEX {EVENTS}_occurred_at_idx ON {EVENTS} (occurred_at)")
    op.execute(f"ALTER TABLE {EVENTS} ADD user_id text")
    op.execute(
        f"UPDATE {EVENTS} AS event SET user_id = users.user_id FROM users WHERE users.subject_key = event.subject_key"
    )
    _force("FORCE")


def _force(how: str) -> None:
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} {how} ROW LEVEL SECURITY")
