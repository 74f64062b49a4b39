"""Assessments of dropout risk, which admins alone may read, and when each is due again."""

from alembic import context, op

revision = "0007"
down_revision = "0006"

TABLES = """
CREATE TABLE risk_assessments (
    subject_key uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    days smallint NOT NULL,
    user_id text NOT NULL,
    score double precision,
    rank double precision,
    factors jsonb NOT NULL,
    model text NOT NULL,
    assessed_at timestamptz NOT NULL,
    PRIMARY KEY (subject_key, days)
);
CREATE INDEX ON risk_assessments (days, rank, user_id) WHERE rank IS NOT NULL;

CREATE TABLE assessments_due (
    subject_key uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    due_at timestamptz NOT NULL
);
CREATE INDEX ON assessments_due (due_at)
"""
NAMES = ("risk_assessments", "assessments_due")


def upgrade() -> None:
    logins: dict[str, str] = context.config.attributes["logins"]
    for statement in TABLES.split(";"):
        op.execute(statement)
    op.execute("INSERT INTO assessments_due SELECT subject_key, now() FROM users")
    for table in NAMES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    quoted = {name: '"' + login.replace('"', '""') + '"' for name, login in logins.items()}
    _allow(quoted["admin"], "SELECT", "risk_assessments")
    _allow(quoted["worker"], "SELECT, INSERT, UPDATE", "risk_assessments")
    _allow(quoted["worker"], "SELECT, INSERT, UPDATE", "assessments_due")
    _allow(quoted["intake"], "INSERT", "assessments_due")


def _allow(login: str, privileges: str, table: str) -> None:
    op.execute(f"GRANT {privileges} ON {table} TO {login}")
    op.execute(f"CREATE POLICY {login} ON {table} TO {login} USING (true)")


def downgrade() -> None:
    op.execute(f"DROP TABLE {', '.join(NAMES)}")
