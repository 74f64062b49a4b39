"""The ledger of what was accepted, and the events that could not be stored."""

from alembic import context, op

revision = "0002"
down_revision = "0001"

TABLES = """
CREATE TABLE intake_counts (
    slot smallint PRIMARY KEY,
    accepted bigint NOT NULL,
    stored bigint NOT NULL,
    duplicate bigint NOT NULL,
    withdrawn bigint NOT NULL
);

CREATE TABLE stored_batches (
    batch_id text PRIMARY KEY
);

CREATE TABLE set_aside_events (
    set_aside_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    set_aside_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason text NOT NULL,
    event bytea NOT NULL
)
"""
NAMES = ("intake_counts", "stored_batches", "set_aside_events")


def upgrade() -> None:
    logins: dict[str, str] = context.config.attributes["logins"]
    for statement in TABLES.split(";"):
        op.execute(statement)
    for table in NAMES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    for name in ("worker", "intake"):
        login = '"' + logins[name].replace('"', '""') + '"'
        _allow(login, "SELECT, INSERT, UPDATE", "intake_counts")
        _allow(login, "SELECT, INSERT, DELETE", "stored_batches")
        # What was set aside is people's: whoever takes events may add to it and count it, and no more.
        whole = "SELECT, INSERT, DELETE" if name == "worker" else "SELECT (set_aside_id), INSERT"
        _allow(login, whole, "set_aside_events")


def _allow(login: str, privileges: str, table: str) -> None:
    op.execute(f"GRANT {privileges} ON {table} TO {login}")
    op.execute(f"CREATE POLICY {login} ON {table} TO {login} USING (true)")


def downgrade() -> None:
    op.execute(f"DROP TABLE {', '.join(NAMES)}")
