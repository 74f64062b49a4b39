"""What is old is anonymised, and later deleted: whole partitions, written anew, so that no file keeps old rows."""

from alembic import context, op

revision = "0012"
down_revision = "0011"

TABLES = """
CREATE TABLE retention_runs (
    started_at timestamptz PRIMARY KEY,
    finished_at timestamptz,
    as_of timestamptz NOT NULL,
    anonymized bigint NOT NULL,
    deleted bigint NOT NULL
);

CREATE TABLE sealed_sessions (
    subject_key uuid NOT NULL,
    device_id uuid,
    ended_at timestamptz NOT NULL
);
CREATE INDEX ON sealed_sessions (subject_key);

CREATE TABLE partition_rewrites (
    parent text NOT NULL,
    week date NOT NULL
)
"""
NAMES = ("retention_runs", "sealed_sessions", "partition_rewrites")
EVENTS, ERRORS, SESSIONS, CONTRIBUTIONS = PARTITIONED = (
    "user_activity_events",
    "error_events",
    "user_sessions",
    "daily_contributions",
)
READ_BY_OWNER = (*PARTITIONED, "catalogue")
MINUTE = "date_bin('1 minute', occurred_at, '2000-01-01 00:00Z')"
AN_HOUR = "date_bin('1 hour', {at}, '2000-01-01 00:00Z')"
FUNCTIONS = "LANGUAGE plpgsql SET search_path = public, pg_temp SET timezone = 'UTC'"

# As models/horizon.py has it.
HORIZON = f"""
CREATE FUNCTION retention_horizon(as_of timestamptz, days integer) RETURNS timestamptz {FUNCTIONS} STABLE AS $$
DECLARE
    next_run timestamptz := date_trunc('day', as_of) + interval '2 hours';
BEGIN
    IF next_run <= as_of THEN
        next_run := next_run + interval '1 day';
    END IF;
    RETURN date_trunc('week', next_run - days * interval '1 day') + interval '7 days';
END $$
"""

# The end of the last week of which anything is anonymised, as its partitions say by a constraint of that name. Until
# the transaction's end no other is. The lock is that of writers: who reads before they write would otherwise wait for
# an exchange that waits for them.
SEALED_UNTIL = f"""
CREATE FUNCTION sealed_until() RETURNS timestamptz {FUNCTIONS} SECURITY DEFINER AS $$
BEGIN
    LOCK TABLE {", ".join(f"ONLY {table}" for table in PARTITIONED)} IN ROW EXCLUSIVE MODE;
    RETURN (
        SELECT max(to_date(right(relname, 8), 'YYYYMMDD')) + 7
        FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
        WHERE conname = 'anonymised' AND relispartition
    );
END $$
"""

# What has to be done to which partitions.
# Names are read from pg_class, as of the same moment as the rest: a partition that is exchanged meanwhile has a number
# for its ::regclass::text.
DUE = f"""
CREATE FUNCTION partitions_due(sealed_before timestamptz, kept_since timestamptz)
RETURNS TABLE (step text, parent text, part text, week date) {FUNCTIONS} STABLE AS $$
BEGIN
    RETURN QUERY
    SELECT due.step, due.parent, due.part, due.week
    FROM pg_inherits
    JOIN pg_class ON pg_class.oid = inhrelid
    CROSS JOIN LATERAL (
        SELECT inhparent::regclass::text AS parent, relname::text AS part,
            to_date(right(relname, 8), 'YYYYMMDD') AS week,
            EXISTS (SELECT FROM pg_constraint WHERE conrelid = inhrelid AND conname = 'anonymised') AS is_anonymised
    ) AS one
    CROSS JOIN LATERAL (
        SELECT one.parent, one.part, one.week, CASE
            WHEN one.week < kept_since THEN 'delete'
            WHEN is_anonymised THEN NULL
            WHEN one.week < sealed_before THEN 'anonymize'
            WHEN EXISTS (
                SELECT FROM partition_rewrites AS asked WHERE asked.parent = one.parent AND asked.week = one.week
            ) THEN 'rewrite'
        END AS step
    ) AS due
    WHERE inhparent = ANY (ARRAY{list(PARTITIONED)!r}::regclass[]) AND due.step IS NOT NULL
    ORDER BY due.week, due.parent;
END $$
"""

ROWS_OF_WEEK = f"""
CREATE FUNCTION rows_of_week(parent text, week date) RETURNS bigint {FUNCTIONS} STABLE AS $$
DECLARE
    number bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM %I WHERE %2$I >= $1 AND %2$I < $2', parent, time_of(parent))
    INTO number USING week, week + 7;
    RETURN number;
END $$
"""
TIME_OF = r"""
CREATE FUNCTION time_of(parent text) RETURNS text
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    SELECT substring(pg_get_partkeydef(parent::regclass) FROM '\((.*)\)')
$$
"""

# The oldest row that still names somebody: of what should be anonymised by then, or else of all events.
OLDEST_IDENTIFIABLE = f"""
CREATE FUNCTION oldest_identifiable(sealed_before timestamptz) RETURNS timestamptz
{FUNCTIONS} STABLE SECURITY DEFINER AS $$
DECLARE
    due record;
    found timestamptz;
    oldest timestamptz;
BEGIN
    FOR due IN SELECT * FROM partitions_due(sealed_before, '-infinity') WHERE step = 'anonymize' LOOP
        EXECUTE format('SELECT min(%2$I) FROM %1$I WHERE %2$I >= $1 AND %2$I < $2', due.parent, time_of(due.parent))
        INTO found USING due.week, due.week + 7;
        oldest := least(oldest, found);
    END LOOP;
    RETURN coalesce(oldest, (
        SELECT occurred_at FROM user_activity_events WHERE occurred_at >= greatest(sealed_before, sealed_until())
        ORDER BY {MINUTE}, occurred_at LIMIT 1
    ));
END $$
"""

# The constraint on what is within saves a look at all rows where the partition is attached.
BEGIN_ANEW = f"""
CREATE FUNCTION begin_anew(parent text, part text) RETURNS void {FUNCTIONS} AS $$
BEGIN
    EXECUTE format(
        'CREATE TABLE partition_anew (LIKE %I INCLUDING ALL EXCLUDING INDEXES, CONSTRAINT within CHECK (%s))',
        parent, pg_get_partition_constraintdef(part::regclass)
    );
END $$
"""

INDEX_ANEW = f"""
CREATE FUNCTION index_anew(parent text) RETURNS void {FUNCTIONS} SET maintenance_work_mem = '128MB' AS $$
DECLARE
    definition text;
BEGIN
    FOR definition IN
        SELECT 'ALTER TABLE partition_anew ADD ' || pg_get_constraintdef(oid)
        FROM pg_constraint WHERE conrelid = parent::regclass AND contype = 'p'
        UNION ALL
        SELECT 'CREATE INDEX ON partition_anew ' || substring(pg_get_indexdef(indexrelid) FROM 'USING .*')
        FROM pg_index WHERE indrelid = parent::regclass AND NOT indisprimary
    LOOP
        EXECUTE definition;
    END LOOP;
    ANALYZE partition_anew;
END $$
"""

# Rows that were there before the copy was begun, when all transactions before `since` were over, and rows that came or
# changed since.
OLD_AND_NEW = f"""
CREATE FUNCTION old_and_new(parent text, week date, since xid, OUT old bigint, OUT new bigint) {FUNCTIONS} AS $$
BEGIN
    EXECUTE format(
        'SELECT count(*) FILTER (WHERE age(xmin) > age($3)), count(*) FILTER (WHERE age(xmin) <= age($3))'
        ' FROM %I WHERE %2$I >= $1 AND %2$I < $2', parent, time_of(parent)
    ) INTO old, new USING week, week + 7, since;
END $$
"""
CATCH_UP = f"""
CREATE FUNCTION catch_up(parent text, week date, since xid, copied bigint) RETURNS void
{FUNCTIONS} SET work_mem = '64MB' AS $$
DECLARE
    same text := (
        SELECT string_agg(format('now.%1$I = copied.%1$I', attname), ' AND ')
        FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
        WHERE indrelid = parent::regclass AND indisprimary
    );
BEGIN
    IF copied > (SELECT old FROM old_and_new(parent, week, since)) THEN
        EXECUTE format(
            'DELETE FROM partition_anew AS copied WHERE NOT EXISTS (SELECT FROM %I AS now'
            ' WHERE now.%2$I >= $1 AND now.%2$I < $2 AND age(now.xmin) > age($3) AND %3$s)',
            parent, time_of(parent), same
        ) USING week, week + 7, since;
    END IF;
    EXECUTE format(
        'INSERT INTO partition_anew SELECT * FROM %I WHERE %2$I >= $1 AND %2$I < $2 AND age(xmin) <= age($3)',
        parent, time_of(parent)
    ) USING week, week + 7, since;
END $$
"""

# Whoever waits for a lock makes all others wait behind: so for a moment only, and then again with none in hand. A
# living partition is caught up with first, while nobody writes and everybody reads; of a sealed one it is seen that it
# is unchanged.
EXCHANGE = f"""
CREATE FUNCTION exchange(parent text, part text, week date, since xid, copied bigint, sealed boolean) RETURNS boolean
{FUNCTIONS} SET lock_timeout = '200ms' AS $$
DECLARE
    seconds float := 0.2;
BEGIN
    LOOP
        BEGIN
            IF NOT sealed THEN
                EXECUTE format('LOCK TABLE ONLY %I IN SHARE ROW EXCLUSIVE MODE', parent);
                PERFORM catch_up(parent, week, since, copied);
            ELSE
                EXECUTE format('LOCK TABLE %I IN SHARE ROW EXCLUSIVE MODE', part);
                IF old_and_new(parent, week, since) <> (copied, 0::bigint) THEN
                    RAISE serialization_failure;
                END IF;
            END IF;
            EXECUTE format('LOCK TABLE ONLY %I, %I IN ACCESS EXCLUSIVE MODE', parent, part);
            PERFORM put_in_place(parent, part);
            RETURN true;
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected THEN
                PERFORM pg_sleep(seconds);
                seconds := least(2 * seconds, 5);
            WHEN serialization_failure THEN
                RETURN false;
        END;
    END LOOP;
END $$
"""
PUT_IN_PLACE = f"""
CREATE FUNCTION put_in_place(parent text, part text) RETURNS void {FUNCTIONS} AS $$
DECLARE
    bounds text := (SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = part::regclass);
BEGIN
    EXECUTE format('DROP TABLE %I', part);
    EXECUTE format('ALTER TABLE partition_anew RENAME TO %I', part);
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', part);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', part);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I %s', parent, part, bounds);
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT within', part);
END $$
"""
DROP_PATIENTLY = f"""
CREATE FUNCTION drop_patiently(part text) RETURNS void {FUNCTIONS} SET lock_timeout = '200ms' AS $$
DECLARE
    seconds float := 0.2;
BEGIN
    LOOP
        BEGIN
            EXECUTE format('DROP TABLE %I', part);
            RETURN;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            PERFORM pg_sleep(seconds);
            seconds := least(2 * seconds, 5);
        END;
    END LOOP;
END $$
"""

# A part of a path that is an id: a number, a UUID, eight or more hexadecimal digits, or what we know as an id.
PATH_PATTERN = r"""
CREATE FUNCTION path_pattern(path text) RETURNS text
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    SELECT string_agg(
        CASE
            WHEN EXISTS (SELECT FROM users WHERE user_id = part) THEN '\:id'
            WHEN EXISTS (SELECT FROM catalogue WHERE kind IN ('QUEST', 'BADGE') AND name = part) THEN '\:id'
            ELSE regexp_replace(
                part,
                '(?<![0-9a-z])([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8,}|[0-9]+)(?![0-9a-z])', '\:id', 'gi'
            )
        END,
        '/' ORDER BY place
    )
    FROM string_to_table(path, '/') WITH ORDINALITY AS each (part, place)
$$
"""

# What rows are like once nobody can be told from them, and what is read of the old ones: each row gets a random key,
# by which it is also put in its place, so that nothing is left of the order of people. Of events, only those that make
# milestones keep the names of quests, tasks and badges: there a learner's own record says the same, and more. They keep
# nothing else, since that record would tell whose it was.
IS_ANONYMISED = {
    EVENTS: f"""
        event_id = subject_key AND occurred_at = {AN_HOUR.format(at="occurred_at")} AND received_at = occurred_at
        AND num_nonnulls(device_id, page_title, referrer, user_agent, ip_address) = 0 AND NOT from_service""",
    ERRORS: f"""
        event_id = subject_key AND occurred_at = {AN_HOUR.format(at="occurred_at")}
        AND num_nonnulls(message, stack, fingerprint) = 0""",
    SESSIONS: f"""
        session_id = subject_key AND first_event_id = subject_key
        AND num_nonnulls(device_id, logout_id, browser, os) = 0
        AND started_at = {AN_HOUR.format(at="started_at")} AND ended_at = started_at AND open_until = started_at""",
    CONTRIBUTIONS: """
        num_nonnulls(
            page_views, load_keys, page_exits, visible_seconds, quest_views, quest_starts, quest_completions,
            quests_finished, badge_views, badge_claims, badges_earned
        ) = 0""",
}
MILESTONES = (
    "quest_started",
    "quest_abandoned",
    "quest_completed",
    "task_completed",
    "badge_claimed",
    "badge_earned",
)
OTHERS = (
    "page_view",
    "route_change",
    "page_exit",
    "quest_viewed",
    "task_viewed",
    "evidence_uploaded",
    "badge_viewed",
    "tutor_opened",
    "tutor_message_sent",
    "tutor_safety_flag",
    "connection_request_sent",
    "connection_accepted",
    "profile_viewed",
    "login_success",
    "login_failed",
    "logout",
    "session_expired",
    "parent_dashboard_opened",
    "parent_evidence_uploaded",
    "javascript_error",
    "api_error",
    "network_error",
)
CLEARED = (
    "studentId",
    "conversationId",
    "recipientId",
    "requesterId",
    "profileId",
    "childId",
    "message",
    "stack",
    "fingerprint",
    "endpoint",
    "fromPath",
)
NAMED = ("questId", "questTitle", "taskId", "taskTitle", "badgeId", "badgeName")
ROWS = {
    EVENTS: f"""
        WITH paths AS MATERIALIZED (
            SELECT page_path, path_pattern(page_path) AS pattern
            FROM user_activity_events WHERE occurred_at >= since AND occurred_at < until GROUP BY page_path
        ), keyed AS (
            SELECT gen_random_uuid() AS key, {AN_HOUR.format(at="occurred_at")} AS hour,
                event_type, page_path, event_data
            FROM user_activity_events WHERE occurred_at >= since AND occurred_at < until
        )
        INSERT INTO partition_anew
            (subject_key, event_id, occurred_at, received_at, from_service, event_type, page_path, event_data)
        SELECT key, key, hour, hour, false, event_type,
            CASE WHEN event_type <> ALL (ARRAY{list(MILESTONES)!r}) THEN pattern END,
            CASE
                WHEN event_type = ANY (ARRAY{list(MILESTONES)!r}) THEN event_data - ARRAY{list(CLEARED)!r}
                WHEN event_type = ANY (ARRAY{list(OTHERS)!r}) THEN event_data - ARRAY{[*CLEARED, *NAMED]!r}
                ELSE '{{}}'
            END
        FROM keyed LEFT JOIN paths USING (page_path)
        ORDER BY key""",
    ERRORS: f"""
        INSERT INTO partition_anew (
            subject_key, event_id, occurred_at, error_type, status_code, component, endpoint, method, release,
            page_path, group_id, grouping
        )
        SELECT key, key, hour, error_type, status_code, component, path_pattern(endpoint), method, release,
            path_pattern(page_path), group_id, grouping
        FROM (
            SELECT gen_random_uuid() AS key, {AN_HOUR.format(at="occurred_at")} AS hour, error_events.*
            FROM error_events WHERE occurred_at >= since AND occurred_at < until
        ) AS keyed
        ORDER BY key""",
    # Their lengths, and what they hold, a learner's own record has too: it would tell whose they were.
    SESSIONS: f"""
        INSERT INTO partition_anew (
            subject_key, session_id, first_event_id, started_at, ended_at, open_until, page_views, events, is_bounce,
            entry_path, exit_path
        )
        SELECT key, key, key, hour, hour, hour, 0, 0, is_bounce,
            path_pattern(entry_path), path_pattern(exit_path)
        FROM (
            SELECT gen_random_uuid() AS key, {AN_HOUR.format(at="started_at")} AS hour, user_sessions.*
            FROM user_sessions WHERE started_at >= since AND started_at < until
        ) AS keyed
        ORDER BY key""",
    # Those of all subjects become one a day.
    CONTRIBUTIONS: """
        INSERT INTO partition_anew (subject_key, day, events_by_category)
        SELECT gen_random_uuid(), day, array_agg(number ORDER BY category)
        FROM (
            SELECT day, category, sum(events)::integer AS number
            FROM daily_contributions
            CROSS JOIN unnest(events_by_category) WITH ORDINALITY AS each (events, category)
            WHERE day >= since::date AND day < until::date
            GROUP BY day, category
        ) AS summed
        GROUP BY day""",
}
# Deriving starts after a session that reaches into what is not sealed, though its row is nobody's any more.
FIRST = {
    SESSIONS: """
        DELETE FROM sealed_sessions WHERE ended_at < until;
        INSERT INTO sealed_sessions
        SELECT subject_key, device_id, max(ended_at) FROM user_sessions
        WHERE started_at >= until - interval '24 hours' AND started_at < until AND ended_at >= until
        GROUP BY subject_key, device_id;"""
}
WRITE_ANONYMISED = """
CREATE FUNCTION anonymize_{table}(since timestamptz, until timestamptz) RETURNS void {functions}
SET work_mem = '64MB' AS $$
BEGIN
    ALTER TABLE partition_anew ADD CONSTRAINT anonymised CHECK ({check});{first}{rows};
END $$
"""

# One partition a call; none where nothing is due. Two at once wait for each other, and do nothing twice.
STEP = """
CREATE FUNCTION {name}(as_of timestamptz, after_days integer) RETURNS TABLE (parent text, part text, number bigint)
{functions} SECURITY DEFINER AS $$
DECLARE
    week date;
    since xid;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('retention', 0));
    SELECT due.parent, due.part, due.week INTO parent, part, week FROM partitions_due({due}) AS due
    WHERE step = '{step}' LIMIT 1;
    IF part IS NULL THEN
        RETURN;
    END IF;{what}
    RETURN NEXT;
END $$
"""
# In the run that began last, where it is not over.
COUNTED = """
    UPDATE retention_runs SET {column} = {column} + number
    WHERE started_at = (SELECT max(started_at) FROM retention_runs) AND finished_at IS NULL;"""
# Its days are sealed: where somebody yet changed something meanwhile, as erasures do, it is done once more.
ANONYMIZE = STEP.format(
    name="anonymize_old_activity_events",
    functions=FUNCTIONS,
    due="retention_horizon(as_of, after_days), '-infinity'",
    step="anonymize",
    what="""
    LOOP
        since := pg_snapshot_xmin(pg_current_snapshot())::xid;
        number := rows_of_week(parent, week);
        PERFORM begin_anew(parent, part);
        EXECUTE format('SELECT %I($1, $2)', 'anonymize_' || parent) USING week::timestamptz, week + interval '7 days';
        PERFORM index_anew(parent);
        EXIT WHEN exchange(parent, part, week, since, number, sealed => true);
        DROP TABLE partition_anew;
    END LOOP;"""
    + COUNTED.format(column="anonymized"),
)
DELETE = STEP.format(
    name="delete_old_activity_events",
    functions=FUNCTIONS,
    due="'-infinity', retention_horizon(as_of, after_days)",
    step="delete",
    what="""
    number := rows_of_week(parent, week);
    PERFORM drop_patiently(part);"""
    + COUNTED.format(column="deleted"),
)
# Asked for by an erasure: a partition that is not anonymised yet, with the rows that are left. Who asks while it is
# under way, asks for the next time.
REWRITE = STEP.format(
    name="rewrite_erased_partitions",
    functions=FUNCTIONS,
    due="retention_horizon(as_of, after_days), '-infinity'",
    step="rewrite",
    what="""
    EXECUTE 'DELETE FROM partition_rewrites WHERE parent = $1 AND week = $2' USING parent, week;
    since := pg_snapshot_xmin(pg_current_snapshot())::xid;
    PERFORM begin_anew(parent, part);
    EXECUTE format(
        'INSERT INTO partition_anew SELECT * FROM %I WHERE %2$I >= $1 AND %2$I < $2 AND age(xmin) > age($3)',
        parent, time_of(parent)
    ) USING week, week + 7, since;
    GET DIAGNOSTICS number = ROW_COUNT;
    PERFORM index_anew(parent);
    PERFORM exchange(parent, part, week, since, number, sealed => false);""",
)
# As before, but for what is anonymised: its indexes are as small as they can be.
REBUILD_INDEX = """
CREATE OR REPLACE FUNCTION rebuild_index(quiet_since timestamptz, largest bigint) RETURNS boolean
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
    WHERE inhparent = ANY (ARRAY{tables!r}::regclass[])
    AND part.relname <= inhparent::regclass || to_char(quiet_since - interval '7 days', '_YYYYMMDD')
    AND amname = 'btree' AND index.relfilenode = index.oid
    AND pg_relation_size(index.oid) BETWEEN 4 * 8192 AND largest{besides}
    ORDER BY part.relname, index.relname LIMIT 1;
    IF loose IS NOT NULL THEN
        EXECUTE format('REINDEX INDEX %s', loose);
    END IF;
    RETURN loose IS NOT NULL;
END $$
"""
REBUILT = [EVENTS, SESSIONS, CONTRIBUTIONS]
NOT_ANONYMISED = """
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = part.oid AND conname = 'anonymised')"""

HELPERS = (
    HORIZON,
    SEALED_UNTIL,
    DUE,
    TIME_OF,
    ROWS_OF_WEEK,
    OLDEST_IDENTIFIABLE,
    BEGIN_ANEW,
    INDEX_ANEW,
    OLD_AND_NEW,
    CATCH_UP,
    EXCHANGE,
    PUT_IN_PLACE,
    DROP_PATIENTLY,
    PATH_PATTERN,
)
FOR_WORKER = (
    "sealed_until()",
    "partitions_due(timestamptz, timestamptz)",
    "rows_of_week(text, date)",
    "time_of(text)",
    "oldest_identifiable(timestamptz)",
    "anonymize_old_activity_events(timestamptz, integer)",
    "delete_old_activity_events(timestamptz, integer)",
    "rewrite_erased_partitions(timestamptz, integer)",
)
FOR_ADMIN = ("sealed_until()", "oldest_identifiable(timestamptz)")
FOR_INTAKE = ("sealed_until()",)
FOR_OWNER = (
    "retention_horizon(timestamptz, integer)",
    "begin_anew(text, text)",
    "index_anew(text)",
    "old_and_new(text, date, xid)",
    "catch_up(text, date, xid, bigint)",
    "exchange(text, text, date, xid, bigint, boolean)",
    "put_in_place(text, text)",
    "drop_patiently(text)",
    "path_pattern(text)",
    *(f"anonymize_{table}(timestamptz, timestamptz)" for table in PARTITIONED),
)


def upgrade() -> None:
    for statement in TABLES.split(";"):
        op.execute(statement)
    for function in HELPERS:
        op.execute(function)
    for table in PARTITIONED:
        rewrite = {"check": IS_ANONYMISED[table], "first": FIRST.get(table, ""), "rows": ROWS[table]}
        op.execute(WRITE_ANONYMISED.format(table=table, functions=FUNCTIONS, **rewrite))
    for function in (ANONYMIZE, DELETE, REWRITE, REBUILD_INDEX.format(tables=REBUILT, besides=NOT_ANONYMISED)):
        op.execute(function)
    _grant(*(_login(name) for name in ("worker", "admin", "intake")))


def _grant(worker: str, admin: str, intake: str) -> None:
    for table in NAMES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    _allow(worker, "SELECT, INSERT, UPDATE", "retention_runs")
    _allow(worker, "SELECT, DELETE", "sealed_sessions")
    _allow(worker, "SELECT, INSERT, DELETE", "partition_rewrites")
    _allow(admin, "SELECT", "retention_runs")
    op.execute(f"GRANT DELETE ON devices, error_groups TO {worker}")
    op.execute(f"REVOKE ALL ON FUNCTION {', '.join((*FOR_WORKER, *FOR_OWNER))} FROM PUBLIC")
    for login, functions in {worker: FOR_WORKER, admin: FOR_ADMIN, intake: FOR_INTAKE}.items():
        op.execute(f"GRANT EXECUTE ON FUNCTION {', '.join(functions)} TO {login}")
    # Under FORCE the owner's own functions see nothing without a policy.
    for table in READ_BY_OWNER:
        op.execute(f"CREATE POLICY owner ON {table} FOR SELECT TO CURRENT_USER USING (true)")
    for table in NAMES:
        op.execute(f"CREATE POLICY owner ON {table} TO CURRENT_USER USING (true)")


def _login(name: str) -> str:
    logins: dict[str, str] = context.config.attributes["logins"]
    return '"' + logins[name].replace('"', '""') + '"'


def _allow(login: str, privileges: str, table: str) -> None:
    op.execute(f"GRANT {privileges} ON {table} TO {login}")
    op.execute(f"CREATE POLICY {login} ON {table} TO {login} USING (true)")


def downgrade() -> None:
    op.execute(REBUILD_INDEX.format(tables=REBUILT, besides=""))
    op.execute(f"REVOKE DELETE ON devices, error_groups FROM {_login('worker')}")
    for table in READ_BY_OWNER:
        op.execute(f"DROP POLICY owner ON {table}")
    op.execute(f"DROP FUNCTION {', '.join((*FOR_WORKER, *FOR_OWNER))}")
    op.execute(f"DROP TABLE {', '.join(NAMES)}")
