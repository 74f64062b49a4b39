"""Tombstones of those who were erased, erasures with their receipts, and archives for those who ask what is kept."""

from alembic import context, op

revision = "0013"
down_revision = "0012"

STATES = "state text NOT NULL CHECK (state IN ('WAITING', 'RUNNING', 'DONE', 'FAILED'))"
TABLES = f"""
CREATE TABLE tombstones (
    digest bytea PRIMARY KEY,
    made_at timestamptz NOT NULL
);
CREATE INDEX ON tombstones (made_at);

CREATE TABLE erasures (
    erasure_id uuid PRIMARY KEY,
    asked_by bytea NOT NULL,
    tombstone bytea NOT NULL,
    {STATES},
    requested_at timestamptz NOT NULL,
    finished_at timestamptz,
    subject_key uuid,
    user_id text,
    steps text[] NOT NULL DEFAULT '{{}}',
    rounds integer NOT NULL DEFAULT 0,
    deleted jsonb NOT NULL DEFAULT '{{}}',
    found jsonb NOT NULL DEFAULT '{{}}',
    receipt jsonb,
    written_anew_at timestamptz
);
CREATE INDEX ON erasures (requested_at) WHERE finished_at IS NULL;
CREATE INDEX ON erasures (tombstone);
CREATE INDEX ON erasures (finished_at) WHERE written_anew_at IS NULL;

CREATE TABLE data_exports (
    subject_key uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    export_id uuid NOT NULL,
    asked_by_key uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    asked_as text NOT NULL,
    {STATES},
    requested_at timestamptz NOT NULL,
    tries integer NOT NULL DEFAULT 0,
    expires_at timestamptz,
    size bigint,
    PRIMARY KEY (subject_key, export_id)
);
CREATE INDEX ON data_exports (asked_by_key);
CREATE INDEX ON data_exports (export_id);

CREATE TABLE data_export_parts (
    subject_key uuid NOT NULL,
    export_id uuid NOT NULL,
    number integer NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (subject_key, export_id, number),
    FOREIGN KEY (subject_key, export_id) REFERENCES data_exports ON DELETE CASCADE
);
ALTER TABLE data_export_parts ALTER content SET STORAGE EXTERNAL
"""
NAMES = ("tombstones", "erasures", "data_exports", "data_export_parts")
SUBJECTS = "(nullif(current_setting('questlog.subjects', true), '')::uuid[])"
ASKED = "erasure_id, asked_by, tombstone, state, requested_at, finished_at, receipt"
# What the worker may do beyond what it may already: tables that hold people's rows lose those of whoever is erased.
MORE_FOR_WORKER = {
    "users": "DELETE",
    "user_activity_events": "UPDATE, DELETE",
    "error_events": "DELETE",
    "error_groups": "DELETE",
    "set_aside_events": "UPDATE",
}
# Deleted rows stay in a table's files until they are written over, and their values in the planner's statistics.
# Whoever waits for a lock makes all others wait.
WRITE_ANEW = """
CREATE FUNCTION write_anew(which text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    by_index regclass;
    rows bigint;
BEGIN
    SELECT indexrelid INTO STRICT by_index FROM pg_index
    WHERE indrelid = to_regclass(which) AND indpred IS NULL
    ORDER BY indisprimary DESC, indexrelid LIMIT 1;
    EXECUTE format('CLUSTER %I USING %I', which, (SELECT relname FROM pg_class WHERE oid = by_index));
    SELECT reltuples INTO rows FROM pg_class WHERE oid = to_regclass(which);
    EXECUTE format('ANALYZE %I', which);
    RETURN rows;
END $$
"""


def upgrade() -> None:
    for statement in TABLES.split(";"):
        op.execute(statement)
    for table in NAMES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(WRITE_ANEW)
    op.execute("REVOKE ALL ON FUNCTION write_anew(text) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION write_anew(text) TO {_login('worker')}")
    viewer, admin, worker, intake = (_login(name) for name in ("viewer", "admin", "worker", "intake"))
    _allow(worker, "SELECT, INSERT, UPDATE, DELETE", *NAMES)
    _allow(intake, "SELECT, INSERT, UPDATE, DELETE", "tombstones")
    _allow(intake, f"SELECT ({ASKED}), INSERT", "erasures")
    _allow(intake, "SELECT, INSERT, UPDATE, DELETE", "data_exports")
    _allow(intake, "SELECT (export_id), DELETE", "data_export_parts")
    for login, rows in {viewer: f"subject_key = ANY {SUBJECTS}", admin: "true"}.items():
        _allow(login, "SELECT", "data_exports", "data_export_parts", rows=rows)
    for table, privileges in MORE_FOR_WORKER.items():
        op.execute(f"GRANT {privileges} ON {table} TO {worker}")
    op.execute(f"GRANT DELETE ON users TO {intake}")
    # To count what goes with the user.
    op.execute(f"GRANT SELECT (subject_key) ON assessments_due TO {intake}")
    _allow(intake, "SELECT (subject_key)", "risk_assessments")


def _login(name: str) -> str:
    logins: dict[str, str] = context.config.attributes["logins"]
    return '"' + logins[name].replace('"', '""') + '"'


def _allow(login: str, privileges: str, *tables: str, rows: str = "true") -> None:
    for table in tables:
        op.execute(f"GRANT {privileges} ON {table} TO {login}")
        op.execute(f"CREATE POLICY {login} ON {table} TO {login} USING ({rows})")


def downgrade() -> None:
    worker, intake = _login("worker"), _login("intake")
    op.execute(f"DROP POLICY {intake} ON risk_assessments")
    op.execute(f"REVOKE SELECT (subject_key) ON risk_assessments, assessments_due FROM {intake}")
    op.execute(f"REVOKE DELETE ON users FROM {intake}")
    for table, privileges in MORE_FOR_WORKER.items():
        op.execute(f"REVOKE {privileges} ON {table} FROM {worker}")
    op.execute("DROP FUNCTION write_anew(text)")
    op.execute(f"DROP TABLE {', '.join(reversed(NAMES))}")
