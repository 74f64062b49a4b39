"""The first tables, their partitions, and who may read and write them."""

from alembic import context, op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE users (
    subject_key uuid PRIMARY KEY,
    user_id text NOT NULL UNIQUE,
    role text NOT NULL CHECK (role IN ('STUDENT', 'PARENT', 'ADMIN')),
    display_name text,
    time_zone text NOT NULL DEFAULT 'UTC',
    birth_date date,
    known_since timestamptz NOT NULL,
    first_seen_at timestamptz,
    last_seen_at timestamptz
);

CREATE TABLE guardianships (
    subject_key uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    guardian_key uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    linked_at timestamptz NOT NULL,
    expires_at timestamptz,
    PRIMARY KEY (subject_key, guardian_key)
);
CREATE INDEX ON guardianships (guardian_key);

CREATE TABLE user_activity_events (
    subject_key uuid NOT NULL,
    event_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    device_id uuid,
    from_service boolean NOT NULL,
    event_type text NOT NULL,
    event_category text NOT NULL,
    user_id text,
    page_path text,
    page_title text,
    referrer text,
    user_agent text,
    ip_address text,
    event_data jsonb NOT NULL,
    PRIMARY KEY (subject_key, event_id, occurred_at)
) PARTITION BY RANGE (occurred_at);
CREATE INDEX ON user_activity_events (subject_key, occurred_at);
CREATE INDEX ON user_activity_events (occurred_at);
CREATE INDEX ON user_activity_events USING brin (occurred_at);
CREATE INDEX ON user_activity_events USING gin (event_data jsonb_path_ops) WITH (fastupdate = off);

CREATE TABLE error_events (
    subject_key uuid NOT NULL,
    event_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    error_type text NOT NULL,
    status_code smallint,
    message text,
    stack text,
    component text,
    endpoint text,
    method text,
    release text,
    fingerprint text,
    page_path text,
    PRIMARY KEY (subject_key, event_id, occurred_at)
) PARTITION BY RANGE (occurred_at);
CREATE INDEX ON error_events USING brin (occurred_at);

CREATE TABLE user_sessions (
    subject_key uuid NOT NULL,
    session_id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    open_until timestamptz NOT NULL,
    first_event_id uuid NOT NULL,
    last_event_id uuid NOT NULL,
    device_id uuid,
    page_views integer NOT NULL,
    events integer NOT NULL,
    is_bounce boolean,
    entry_path text,
    exit_path text,
    PRIMARY KEY (subject_key, started_at, session_id)
) PARTITION BY RANGE (started_at);

CREATE TABLE daily_event_counts (
    subject_key uuid NOT NULL,
    day date NOT NULL,
    events_by_category integer[] NOT NULL,
    PRIMARY KEY (subject_key, day)
) PARTITION BY RANGE (day);
CREATE INDEX ON daily_event_counts (day);

CREATE TABLE daily_activity (
    subject_key uuid NOT NULL,
    day date NOT NULL,
    events integer NOT NULL,
    logins integer NOT NULL,
    visited boolean NOT NULL,
    active boolean NOT NULL,
    events_by_category integer[] NOT NULL,
    quests_viewed text[] NOT NULL,
    session_lengths integer[] NOT NULL,
    sessions_open_until timestamptz[] NOT NULL,
    PRIMARY KEY (subject_key, day)
);

CREATE TABLE learning_journey_events (
    subject_key uuid NOT NULL,
    event_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    day date NOT NULL,
    kind text NOT NULL,
    quest_id text,
    task_id text,
    badge_id text,
    title text,
    xp integer NOT NULL,
    pillar text,
    PRIMARY KEY (subject_key, event_id, occurred_at)
);
CREATE INDEX ON learning_journey_events (subject_key, occurred_at);

CREATE TABLE page_view_analytics (
    page_path text NOT NULL,
    day date NOT NULL,
    views bigint NOT NULL,
    sessions bigint NOT NULL,
    entries bigint NOT NULL,
    bounces bigint NOT NULL,
    PRIMARY KEY (page_path, day)
);

CREATE TABLE dirty_spans (
    subject_key uuid NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    marked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON dirty_spans (subject_key)
"""

OF_PEOPLE = (
    "users",
    "guardianships",
    "user_activity_events",
    "error_events",
    "user_sessions",
    "daily_event_counts",
    "daily_activity",
    "learning_journey_events",
    "dirty_spans",
)
PARTITIONED = ("user_activity_events", "error_events", "user_sessions", "daily_event_counts")
READ = tuple(table for table in OF_PEOPLE if table != "dirty_spans")

# A partition is made apart and then attached: that waits for nobody who reads or writes the others.
MAKE_PARTITIONS = f"""
CREATE FUNCTION make_partitions(since timestamptz, until timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    parent text;
    part text;
    week timestamptz;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('make_partitions', 0));
    FOREACH parent IN ARRAY ARRAY{list(PARTITIONED)!r} LOOP
        week := date_trunc('week', since);
        WHILE week <= until LOOP
            part := parent || to_char(week, '_YYYYMMDD');
            IF to_regclass(part) IS NULL THEN
                EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, parent);
                EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', part);
                EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', part);
                EXECUTE format(
                    'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                    parent, part, week, week + interval '7 days'
                );
                made := made + 1;
            END IF;
            week := week + interval '7 days';
        END LOOP;
    END LOOP;
    RETURN made;
END $$
"""

# The subjects that a viewer may see, by the rule of models/viewer.py, for the rest of the transaction.
APP_BEGIN = """
CREATE FUNCTION app_begin(viewer_id text, viewer_role text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    visible uuid[];
BEGIN
    SELECT array_agg(key) INTO visible FROM (
        SELECT subject_key AS key FROM users
        WHERE user_id = viewer_id AND viewer_role IN ('STUDENT', 'PARENT')
        UNION ALL
        SELECT link.subject_key FROM guardianships AS link
        JOIN users AS guardian ON guardian.subject_key = link.guardian_key
        WHERE guardian.user_id = viewer_id AND viewer_role = 'PARENT'
        AND (link.expires_at IS NULL OR link.expires_at > now())
    ) AS seen;
    EXECUTE format('SET LOCAL questlog.subjects = %L', coalesce(visible, '{}'));
END $$
"""

VISIBLE = "subject_key = ANY (nullif(current_setting('questlog.subjects', true), '')::uuid[])"

# A child's guardians by name, who are themselves nobody that the child may see.
GUARDIANS_OF = f"""
CREATE FUNCTION guardians_of(children uuid[])
RETURNS TABLE (subject_key uuid, user_id text, role text, display_name text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT link.subject_key, guardian.user_id, guardian.role, guardian.display_name
    FROM guardianships AS link
    JOIN users AS guardian ON guardian.subject_key = link.guardian_key
    WHERE link.subject_key = ANY (children)
    AND (link.expires_at IS NULL OR link.expires_at > now())
    AND (session_user = '{{admin}}' OR link.{VISIBLE})
    ORDER BY guardian.user_id
$$
"""


def upgrade() -> None:
    logins: dict[str, str] = context.config.attributes["logins"]
    for statement in TABLES.split(";"):
        op.execute(statement)
    for table in (*OF_PEOPLE, "page_view_analytics"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(MAKE_PARTITIONS)
    op.execute(APP_BEGIN)
    op.execute(GUARDIANS_OF.format(admin=logins["admin"].replace("'", "''")))
    _grant(**{name: '"' + login.replace('"', '""') + '"' for name, login in logins.items()})


def _grant(viewer: str, admin: str, worker: str, intake: str) -> None:
    for table in READ:
        _allow(viewer, "SELECT", table, VISIBLE)
        _allow(admin, "SELECT", table)
    _allow(admin, "SELECT", "page_view_analytics")

    for table in ("user_activity_events", "error_events"):
        _allow(worker, "SELECT, INSERT", table)
    for table in ("user_sessions", "daily_event_counts", "daily_activity", "learning_journey_events"):
        _allow(worker, "SELECT, INSERT, UPDATE, DELETE", table)
    _allow(worker, "SELECT, INSERT, UPDATE, DELETE", "page_view_analytics")
    _allow(worker, "SELECT, INSERT, DELETE", "dirty_spans")
    _allow(worker, "SELECT, INSERT, UPDATE", "users")

    _allow(intake, "SELECT, INSERT, UPDATE", "users")
    _allow(intake, "SELECT, INSERT, UPDATE, DELETE", "guardianships")
    _allow(intake, "INSERT", "dirty_spans")
    for table in ("user_activity_events", "error_events"):
        _allow(intake, "SELECT (subject_key, event_id, occurred_at), INSERT", table)

    # Under FORCE the owner's own functions see nothing without a policy.
    for table in ("users", "guardianships"):
        op.execute(f"CREATE POLICY owner ON {table} FOR SELECT TO CURRENT_USER USING (true)")

    for function, readers in {
        "make_partitions(timestamptz, timestamptz)": worker,
        "app_begin(text, text)": viewer,
        "guardians_of(uuid[])": f"{viewer}, {admin}",
    }.items():
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {readers}")


def _allow(login: str, privileges: str, table: str, rows: str = "true") -> None:
    op.execute(f"GRANT {privileges} ON {table} TO {login}")
    op.execute(f"CREATE POLICY {login} ON {table} TO {login} USING ({rows})")


def downgrade() -> None:
    op.execute("DROP FUNCTION guardians_of(uuid[]), app_begin(text, text), make_partitions(timestamptz, timestamptz)")
    op.execute(f"DROP TABLE {', '.join(OF_PEOPLE)}, page_view_analytics")
