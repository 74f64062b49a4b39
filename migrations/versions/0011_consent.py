"""Consents, objections to tracking, and guardians until their child is 18."""

from alembic import context, op

revision = "0011"
down_revision = "0010"

TABLE = """
CREATE TABLE consents (
    subject_key uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    consent_id uuid NOT NULL,
    basis text NOT NULL CHECK (basis IN ('PARENT', 'SCHOOL', 'SELF')),
    method text,
    given_by_key uuid REFERENCES users ON DELETE SET NULL,
    given_at timestamptz NOT NULL,
    notice_version text NOT NULL,
    revoked_at timestamptz,
    PRIMARY KEY (subject_key, consent_id)
);
CREATE INDEX ON consents (given_by_key);
ALTER TABLE users ADD adult_at timestamptz, ADD tracking_objected boolean NOT NULL DEFAULT false
"""

# By the rule of models/age.py: whoever was born on 29 February is 18 on 1 March.
ADULT_AT = """
UPDATE users SET adult_at = (
    (birth_date + interval '18 years')::date
    + (extract(day FROM birth_date) <> extract(day FROM birth_date + interval '18 years'))::integer
)::timestamp AT TIME ZONE time_zone
WHERE birth_date IS NOT NULL
"""

UNEXPIRED = "(link.expires_at IS NULL OR link.expires_at > now())"
IN_FORCE = f"{UNEXPIRED} AND (child.adult_at IS NULL OR child.adult_at > now())"

# The subjects that a viewer may see, by the rule of models/viewer.py, for the rest of the transaction.
APP_BEGIN = """
CREATE OR REPLACE FUNCTION app_begin(viewer_id text, viewer_role text) RETURNS void
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
        JOIN users AS child ON child.subject_key = link.subject_key
        WHERE guardian.user_id = viewer_id AND viewer_role = 'PARENT' AND {in_force}
    ) AS seen;
    EXECUTE format('SET LOCAL questlog.subjects = %L', coalesce(visible, '{{}}'));
END $$
"""

OF_CHILDREN = """
CREATE FUNCTION {name}(children uuid[]) RETURNS TABLE (subject_key uuid, {columns})
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT {found} AND (
        session_user = '{admin}'
        OR of.subject_key = ANY (nullif(current_setting('questlog.subjects', true), '')::uuid[])
    )
    ORDER BY {order}
$$
"""
PERSON = "user_id text, role text, display_name text"
GUARDIANS = """of.subject_key, guardian.user_id, guardian.role, guardian.display_name{until}
    FROM guardianships AS of
    JOIN users AS guardian ON guardian.subject_key = of.guardian_key
    JOIN users AS child ON child.subject_key = of.subject_key
    WHERE of.subject_key = ANY (children) AND {in_force}"""
# Whoever gave a consent by name, who may be nobody that the child may see.
CONSENTS = """of.subject_key, of.basis, of.method, of.given_at, of.notice_version, of.revoked_at,
    giver.user_id, giver.role, giver.display_name
    FROM consents AS of LEFT JOIN users AS giver ON giver.subject_key = of.given_by_key
    WHERE of.subject_key = ANY (children)"""


def upgrade() -> None:
    for statement in TABLE.split(";"):
        op.execute(statement)
    op.execute("ALTER TABLE users NO FORCE ROW LEVEL SECURITY")
    op.execute(ADULT_AT)
    op.execute("ALTER TABLE users FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE consents ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE consents FORCE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY owner ON consents FOR SELECT TO CURRENT_USER USING (true)")
    for name, privileges in {"worker": "SELECT", "intake": "SELECT, INSERT, UPDATE"}.items():
        op.execute(f"GRANT {privileges} ON consents TO {_login(name)}")
        op.execute(f"CREATE POLICY {_login(name)} ON consents TO {_login(name)} USING (true)")

    op.execute(APP_BEGIN.format(in_force=IN_FORCE))
    guardians = GUARDIANS.format(
        until=", least(of.expires_at, child.adult_at)", in_force=IN_FORCE.replace("link.", "of.")
    )
    _guardians_of(f"{PERSON}, until timestamptz", guardians)
    _of_children(
        "consents_of",
        f"basis text, method text, given_at timestamptz, notice_version text, revoked_at timestamptz, {PERSON}",
        CONSENTS,
        "of.given_at DESC, of.consent_id",
    )


def _guardians_of(columns: str, found: str) -> None:
    op.execute("DROP FUNCTION guardians_of(uuid[])")
    _of_children("guardians_of", columns, found, "guardian.user_id")


def _of_children(name: str, columns: str, found: str, order: str) -> None:
    """A function that tells of visible children what their viewers may not read themselves."""
    admin = context.config.attributes["logins"]["admin"].replace("'", "''")
    op.execute(OF_CHILDREN.format(name=name, columns=columns, found=found, order=order, admin=admin))
    op.execute(f"REVOKE ALL ON FUNCTION {name}(uuid[]) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {name}(uuid[]) TO {_login('viewer')}, {_login('admin')}")


def _login(name: str) -> str:
    logins: dict[str, str] = context.config.attributes["logins"]
    return '"' + logins[name].replace('"', '""') + '"'


def downgrade() -> None:
    op.execute("DROP FUNCTION consents_of(uuid[])")
    op.execute(APP_BEGIN.format(in_force=UNEXPIRED))
    _guardians_of(PERSON, GUARDIANS.format(until="", in_force=UNEXPIRED.replace("link.", "of.")))
    op.execute("DROP TABLE consents")
    op.execute("ALTER TABLE users DROP adult_at, DROP tracking_objected")
