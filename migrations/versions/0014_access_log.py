"""Who read whose data, which they themselves, their guardians and admins may know."""

from alembic import context, op

revision = "0014"
down_revision = "0013"

TABLE = """
CREATE TABLE access_log (
    subject_key uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    access_id uuid NOT NULL,
    viewer_key uuid REFERENCES users ON DELETE SET NULL,
    viewer_role text NOT NULL,
    hour timestamptz NOT NULL,
    at timestamptz NOT NULL,
    fields text[] NOT NULL,
    PRIMARY KEY (subject_key, access_id),
    UNIQUE (subject_key, hour, viewer_key, viewer_role)
);
CREATE INDEX ON access_log (subject_key, at);
CREATE INDEX ON access_log (viewer_key);
CREATE INDEX ON access_log USING brin (at)
"""

VISIBLE = "subject_key = ANY (nullif(current_setting('questlog.subjects', true), '')::uuid[])"

# Whoever looked at somebody is named to them, and is nobody else whom they may see.
VIEWERS_OF = f"""
CREATE FUNCTION viewers_of(subjects uuid[], accesses uuid[])
RETURNS TABLE (access_id uuid, user_id text, role text, display_name text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT entry.access_id, viewer.user_id, viewer.role, viewer.display_name
    FROM access_log AS entry
    JOIN users AS viewer ON viewer.subject_key = entry.viewer_key
    WHERE entry.subject_key = ANY (subjects) AND entry.access_id = ANY (accesses)
    AND (session_user = '{{admin}}' OR entry.{VISIBLE})
$$
"""


def upgrade() -> None:
    logins: dict[str, str] = context.config.attributes["logins"]
    for statement in TABLE.split(";"):
        op.execute(statement)
    op.execute("ALTER TABLE access_log ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE access_log FORCE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY owner ON access_log FOR SELECT TO CURRENT_USER USING (true)")
    quoted = {name: '"' + login.replace('"', '""') + '"' for name, login in logins.items()}
    _allow(quoted["viewer"], "SELECT", VISIBLE)
    _allow(quoted["admin"], "SELECT")
    _allow(quoted["worker"], "SELECT, DELETE")
    _allow(quoted["intake"], "SELECT, INSERT, UPDATE (fields)")
    op.execute(VIEWERS_OF.format(admin=logins["admin"].replace("'", "''")))
    op.execute("REVOKE ALL ON FUNCTION viewers_of(uuid[], uuid[]) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION viewers_of(uuid[], uuid[]) TO {quoted['viewer']}, {quoted['admin']}")


def _allow(login: str, privileges: str, rows: str = "true") -> None:
    op.execute(f"GRANT {privileges} ON access_log TO {login}")
    op.execute(f"CREATE POLICY {login} ON access_log TO {login} USING ({rows})")


def downgrade() -> None:
    op.execute("DROP FUNCTION viewers_of(uuid[], uuid[])")
    op.execute("DROP TABLE access_log")
