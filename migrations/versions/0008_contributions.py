"""The platform's figures: what each subject contributes to a UTC day, the sums of it, and the groups of errors."""

from alembic import context, op

revision = "0008"
down_revision = "0007"

# Arrays in place of rows: a row's head and its key in the index would weigh twenty times a number.
COLUMNS = {
    "page_views": "integer[]",
    "load_keys": "smallint[]",
    "page_sessions": "integer[]",
    "page_entries": "integer[]",
    "page_bounces": "integer[]",
    "page_exits": "integer[]",
    "visible_seconds": "double precision[]",
    "quest_views": "integer[]",
    "quest_starts": "integer[]",
    "quest_completions": "integer[]",
    "quests_finished": "integer[]",
    "badge_views": "integer[]",
    "badge_claims": "integer[]",
    "badges_earned": "integer[]",
}
TABLES = """
CREATE TABLE catalogue (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    titled_on date,
    kind text NOT NULL,
    name text NOT NULL,
    title text,
    UNIQUE (kind, name)
);

CREATE TABLE dirty_days (
    day date NOT NULL
);

DROP TABLE page_view_analytics;
CREATE TABLE page_view_analytics (
    day date NOT NULL,
    page integer NOT NULL,
    views integer NOT NULL,
    unique_users integer NOT NULL,
    sessions integer NOT NULL,
    entries integer NOT NULL,
    bounces integer NOT NULL,
    load_keys smallint[],
    load_counts integer[],
    visible_seconds double precision[],
    PRIMARY KEY (day, page)
);

CREATE TABLE quest_analytics (
    day date NOT NULL,
    quest integer NOT NULL,
    views integer NOT NULL,
    starts integer NOT NULL,
    completions integer NOT NULL,
    PRIMARY KEY (day, quest)
);

CREATE TABLE badge_analytics (
    day date NOT NULL,
    badge integer NOT NULL,
    views integer NOT NULL,
    claims integer NOT NULL,
    earned integer NOT NULL,
    PRIMARY KEY (day, badge)
);

CREATE TABLE error_groups (
    group_id uuid PRIMARY KEY,
    first_seen_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL
);
ALTER TABLE error_events ADD group_id uuid, ADD grouping smallint NOT NULL DEFAULT 0;
ALTER TABLE error_events ALTER grouping DROP DEFAULT;
CREATE INDEX ON error_events (group_id, occurred_at)
"""
SUMS = ("page_view_analytics", "quest_analytics", "badge_analytics")
NEW = (*SUMS, "catalogue", "dirty_days", "error_groups")


# Errors that were kept before there were groups are grouped by their type and message; contributions are derived again.
UNFORCED = ("error_events", "user_activity_events", "dirty_spans")
EARLIER = """
UPDATE error_events SET group_id = md5(coalesce(fingerprint, error_type || coalesce(message, '')))::uuid;
ALTER TABLE error_events ALTER group_id SET NOT NULL;
INSERT INTO error_groups SELECT group_id, min(occurred_at), max(occurred_at) FROM error_events GROUP BY group_id;
INSERT INTO dirty_spans
SELECT subject_key, min(occurred_at), max(occurred_at) FROM user_activity_events GROUP BY subject_key
"""

RENAME = """
DO $$
DECLARE
    part text;
BEGIN
    ALTER TABLE {before} RENAME TO {after};
    FOR part IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = '{after}'::regclass LOOP
        EXECUTE format('ALTER TABLE %I RENAME TO %I', part, replace(part, '{before}', '{after}'));
    END LOOP;
    EXECUTE replace(pg_get_functiondef('make_partitions'::regproc), '{before}', '{after}');
END $$
"""
BEFORE, AFTER = "daily_event_counts", "daily_contributions"


def upgrade() -> None:
    op.execute(RENAME.format(before=BEFORE, after=AFTER))
    op.execute(f"ALTER TABLE {AFTER} {', '.join(f'ADD {column} {kind}' for column, kind in COLUMNS.items())}")
    for statement in TABLES.split(";"):
        op.execute(statement)
    for table in UNFORCED:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    for statement in EARLIER.split(";"):
        op.execute(statement)
    for table in UNFORCED:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    for table in NEW:
        _wall(table)
    admin, worker = _logins()
    for table in SUMS:
        _allow(admin, "SELECT", table)
        _allow(worker, "SELECT, INSERT, UPDATE, DELETE", table)
    for table in ("catalogue", "error_groups"):
        _allow(admin, "SELECT", table)
        _allow(worker, "SELECT, INSERT, UPDATE", table)
    _allow(worker, "SELECT, INSERT, DELETE", "dirty_days")


def _logins() -> list[str]:
    logins: dict[str, str] = context.config.attributes["logins"]
    return ['"' + logins[name].replace('"', '""') + '"' for name in ("admin", "worker")]


def _wall(table: str) -> None:
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def _allow(login: str, privileges: str, table: str) -> None:
    op.execute(f"GRANT {privileges} ON {table} TO {login}")
    op.execute(f"CREATE POLICY {login} ON {table} TO {login} USING (true)")


def downgrade() -> None:
    op.execute("ALTER TABLE error_events DROP group_id, DROP grouping")
    op.execute(f"ALTER TABLE {AFTER} {', '.join(f'DROP {column}' for column in COLUMNS)}")
    op.execute(f"DROP TABLE {', '.join(NEW)}")
    op.execute(
        "CREATE TABLE page_view_analytics (page_path text NOT NULL, day date NOT NULL, views bigint NOT NULL,"
        " sessions bigint NOT NULL, entries bigint NOT NULL, bounces bigint NOT NULL, PRIMARY KEY (page_path, day))"
    )
    _wall("page_view_analytics")
    admin, worker = _logins()
    _allow(admin, "SELECT", "page_view_analytics")
    _allow(worker, "SELECT, INSERT, UPDATE, DELETE", "page_view_analytics")
    op.execute(RENAME.format(before=AFTER, after=BEFORE))
